"""The users of the sequential model, and the server's clock and ids.

The model does not know the server's clock nor the ids that the server chooses. A field with
such a value is a `Later` until an answer tells the value. From then on the field must keep
the value until the model changes it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from palaver.v1.metadata_pb2 import MetadataMode
from tests.support.model.state import (
    AlreadyExists,
    Later,
    Metadata,
    NotFound,
    Number,
    Session,
    Stale,
    User,
    as_json,
    known,
)

Mode: TypeAlias = MetadataMode.ValueType
MERGE_PATCH = MetadataMode.METADATA_MODE_MERGE_PATCH


class UserModel:
    """UserService without the sessions of users, and the server's clock and ids."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._deleted_revisions: dict[str, Number] = {}
        self._clock = 0
        self._last_ids: dict[type, int] = {Session: 0, User: 0}

    def saw_time(self, time: int) -> None:
        """Record a time that the server told: later events have this time or a later one."""
        self._clock = max(self._clock, time)

    def saw_id(self, kind: type, id: int) -> None:
        """Record a listing position: objects created later have a greater one."""
        self._last_ids[kind] = max(self._last_ids[kind], id)

    def now(self) -> Later:
        """Return the server's clock."""
        return Later(self._clock)

    def time_in(self, microseconds: int) -> Later:
        """Return the server's clock at a later time."""
        return Later(self._clock + 1000 * microseconds)

    def next_id(self, kind: type) -> Later:
        """Return the listing position of an object that is created now."""
        return Later(self._last_ids[kind] + 1)

    def user(self, user_id: str) -> User:
        """Return the live user with this id."""
        if user_id not in self._users:
            raise NotFound("User", user_id)
        return self._users[user_id]

    def check_user(self, user_id: str, revision: int | None) -> None:
        """Raise Stale if the revision of a user, 0 if there is none, is not the expected one."""
        user = self._users.get(user_id)
        check("revision", revision, user.revision if user else 0)

    def add_user(self, user_id: str, **fields: Any) -> User:
        if user_id not in self._users:
            self.ensure_user(user_id)
            user, revision = self._users[user_id], self._users[user_id].revision
            self._complete(user_id, fields)
            user.revision = revision
            return user
        if self._users[user_id].is_complete:
            raise AlreadyExists("User", user_id)
        return self._change(user_id, fields)

    def update_user(
        self,
        user_id: str,
        patch: Metadata | None,
        *,
        mode: Mode = MERGE_PATCH,
        revision: int | None = None,
        allow_missing: bool = False,
        **given: Any,
    ) -> User:
        if allow_missing and user_id not in self._users:
            self.check_user(user_id, revision)
            metadata = changed({}, patch or {}, mode)
            return self.add_user(user_id, **given, metadata=metadata)
        user = self.user(user_id)
        self.check_user(user_id, revision)
        if patch is not None:
            given["metadata"] = changed(user.metadata, patch, mode)
        return self._change(user_id, given)

    def users(
        self, *, newest_first: bool, cursor: int, matches: Callable[[User], bool]
    ) -> list[User]:
        """Return the rest of a listing after a cursor."""
        live = [user for user in self._users.values() if matches(user)]
        return after_cursor(cursor, live, lambda user: known(user.id), newest_first=newest_first)

    def ensure_user(self, user_id: str) -> None:
        """Create a placeholder for the user of a session, unless the user exists or is empty."""
        if user_id and user_id not in self._users:
            now = self.now()
            revision = self._deleted_revisions.pop(user_id, 0) + 1
            self._users[user_id] = User(user_id, self.next_id(User), now, now, revision)

    def delete_user_alone(self, user_id: str, revision: int | None = None) -> None:
        """Delete a user without the user's sessions."""
        user = self.user(user_id)
        self.check_user(user_id, revision)
        self._deleted_revisions[user_id] = user.revision + 1
        del self._users[user_id]

    def purge_users(self) -> int:
        """Remove all deleted users; return their number."""
        count = len(self._deleted_revisions)
        self._deleted_revisions.clear()
        return count

    def _change(self, user_id: str, given: dict[str, Any]) -> User:
        user = self._users[user_id]
        before = vars(user).copy()
        self._complete(user_id, given)
        if differs(before, vars(user)):
            user.updated_at = self.now()
            user.revision += 1
        return user

    def _complete(self, user_id: str, given: dict[str, Any]) -> User:
        user = self._users[user_id]
        user.is_complete = True
        for name, value in given.items():
            setattr(user, name, value)
        return user


def check(name: str, expected: int | None, actual: Number) -> None:
    """Raise Stale unless a value is the expected one; None: any."""
    if expected is not None and expected != known(actual):
        raise Stale(name, expected, actual)


def differs(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether fields differ; metadata is compared as JSON."""
    return any(
        as_json(before[name]) != as_json(value) if name == "metadata" else before[name] != value
        for name, value in after.items()
    )


def changed(metadata: Metadata, given: Metadata, mode: Mode) -> Metadata:
    """Return metadata changed by that of a request."""
    match mode:
        case MetadataMode.METADATA_MODE_REPLACE:
            return given
        case MetadataMode.METADATA_MODE_TOP_LEVEL:
            return metadata | given
        case _:
            merged: Metadata = merge_patch(metadata, given)
            return merged


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a patch by the algorithm of RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def after_cursor(
    cursor: int, items: Sequence[Any], position: Callable[[Any], int], *, newest_first: bool
) -> list[Any]:
    """Return the rest of a listing after a cursor."""
    ordered = sorted(items, key=position, reverse=newest_first)
    if not cursor:
        return ordered
    if newest_first:
        return [item for item in ordered if position(item) < cursor]
    return [item for item in ordered if position(item) > cursor]
