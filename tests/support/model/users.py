"""The part of the model that is about users, and what all parts share.

The model does not know the server's clock nor the ids that it makes up. Where a field
comes from there it holds a `Later`, until an answer says what it is; from then on the
field must stay what it is, until the model says that it changes.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tests.support.model.state import (
    AlreadyExists,
    Later,
    Metadata,
    NotFound,
    Number,
    Session,
    User,
    known,
)


class UserModel:
    """UserService, but for the sessions of users; and the server's clock and ids."""

    def __init__(self) -> None:
        self._users: dict[str, User] = {}
        self._deleted_users: set[str] = set()
        self._clock = 0
        self._last_ids: dict[type, int] = {Session: 0, User: 0}

    def saw_time(self, time: int) -> None:
        """Notes a time that the server gave: what happens next happens then or later."""
        self._clock = max(self._clock, time)

    def saw_id(self, kind: type, id: int) -> None:
        """Notes a listing position: what is created later has a greater one."""
        self._last_ids[kind] = max(self._last_ids[kind], id)

    def now(self) -> Later:
        """The server's clock."""
        return Later(self._clock)

    def now_or_still(self, time: Number) -> Later:
        """The server's clock, or what it was, if the change is none."""
        return Later(self._clock, or_still=known(time))

    def next_id(self, kind: type) -> Later:
        """The listing position of what is created now."""
        return Later(self._last_ids[kind] + 1)

    def user(self, user_id: str) -> User:
        """The live user of this id."""
        if user_id not in self._users:
            raise NotFound("User", user_id)
        return self._users[user_id]

    def add_user(self, user_id: str, **fields: Any) -> User:
        if user_id not in self._users:
            self.name_user(user_id)
            return self._fill_in(user_id, fields)
        if self._users[user_id].is_filled_in:
            raise AlreadyExists("User", user_id)
        return self._change(user_id, fields)

    def update_user(
        self, user_id: str, patch: Metadata | None, *, replace: bool, **given: Any
    ) -> User:
        user = self.user(user_id)
        if patch is not None:
            given["metadata"] = patch if replace else merge_patch(user.metadata, patch)
        return self._change(user_id, given)

    def users(self, *, newest_first: bool, cursor: int) -> list[User]:
        """The rest of a listing after a cursor."""
        live = list(self._users.values())
        return beyond(cursor, live, lambda user: known(user.id), newest_first=newest_first)

    def name_user(self, user_id: str) -> None:
        """Has a session name a user, or none; who does not exist is created, bare."""
        if user_id and user_id not in self._users:
            now = self.now()
            self._users[user_id] = User(user_id, self.next_id(User), now, now)
            self._deleted_users.discard(user_id)

    def forget_user(self, user_id: str) -> None:
        """Deletes a user, but not what is the user's."""
        del self._users[self.user(user_id).user_id]
        self._deleted_users.add(user_id)

    def purge_users(self) -> int:
        """Returns how many users were deleted, and are no more."""
        count = len(self._deleted_users)
        self._deleted_users.clear()
        return count

    def _change(self, user_id: str, given: dict[str, Any]) -> User:
        user = self._fill_in(user_id, given)
        user.updated_at = self.now_or_still(user.updated_at)
        return user

    def _fill_in(self, user_id: str, given: dict[str, Any]) -> User:
        user = self._users[user_id]
        user.is_filled_in = True
        for name, value in given.items():
            setattr(user, name, value)
        return user


def merge_patch(target: Any, patch: Any) -> Any:
    """The function of RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def beyond(
    cursor: int, items: Sequence[Any], position: Callable[[Any], int], *, newest_first: bool
) -> list[Any]:
    """The rest of a listing after a cursor."""
    ordered = sorted(items, key=position, reverse=newest_first)
    if not cursor:
        return ordered
    if newest_first:
        return [item for item in ordered if position(item) < cursor]
    return [item for item in ordered if position(item) > cursor]
