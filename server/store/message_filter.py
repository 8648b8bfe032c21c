"""Which messages a search looks at: its scope, and what narrows it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from server.principal import bound_user
from server.store.ownership import OWNED, narrowed


class ScopeSql(NamedTuple):
    """How SQL says a scope: of `source`, live messages that meet `condition`.

    `size` counts them roughly, and never too few but for what came in just now.
    """

    source: str
    condition: str
    size: str


_ALL = ScopeSql(
    source="messages m",
    condition="m.deleted_at IS NULL",
    size="SELECT reltuples FROM pg_class WHERE oid = 'messages'::regclass",
)
_IN_SESSION = ScopeSql(
    source="sessions s JOIN messages m USING (session_id)",
    condition=f"""
        s.session_id = %(session_id)s AND s.deleted_at IS NULL AND {OWNED}
        AND m.deleted_at IS NULL
    """,
    size=f"""
        SELECT last_sequence FROM sessions s
        WHERE session_id = %(session_id)s AND deleted_at IS NULL AND {OWNED}
    """,
)
_OF_USER = ScopeSql(
    source="sessions s JOIN messages m USING (session_id)",
    condition=f"""
        s.user_id = %(user_id)s AND s.deleted_at IS NULL AND {OWNED} AND m.deleted_at IS NULL
    """,
    size=f"""
        SELECT sum(last_sequence) FROM sessions s
        WHERE user_id = %(user_id)s AND deleted_at IS NULL AND {OWNED}
    """,
)


class Scope(NamedTuple):
    """The messages of a session, or those of a user, or all. At most one is given.

    To a caller who is bound to a user, that user's messages are all there are.
    """

    session_id: str | None = None
    user_id: str | None = None

    @property
    def is_everything(self) -> bool:
        """Whether the messages of all users are in it."""
        return self == EVERYTHING and bound_user() is None

    @property
    def sql(self) -> ScopeSql:
        """The scope as SQL, whose parameters are `parameters`."""
        if self.is_everything:
            return _ALL
        return _OF_USER if self.session_id is None else _IN_SESSION

    @property
    def parameters(self) -> dict[str, str | None]:
        """The parameters of `sql`, and of OWNED."""
        bound = bound_user()
        user_id = bound if self == EVERYTHING else self.user_id
        return {"session_id": self.session_id, "user_id": user_id, "bound_user": bound}


class MessageFilter(NamedTuple):
    """Narrows a search; None and no roles do not. `metadata` is a SQL/JSON path predicate."""

    roles: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What narrows, by name."""
        return {
            name: list(value) if name == "roles" else value
            for name, value in self._asdict().items()
            if value
        }

    def sql(self, visible: str, *supplied: str) -> str:
        """Return the condition that selects the messages `m` which pass, as `narrowed` does.

        Its parameters are those of `visible` and `supplied`, and `given`.

        Args:
            visible: The condition that selects the messages to filter.
            supplied: What the caller supplies besides the filter; evaluated before its path.
        """
        comparisons = [_COMPARISONS[name] for name in self.given if name in _COMPARISONS]
        paths = [] if self.metadata is None else [_PATH]
        return narrowed(" AND ".join([visible, *comparisons]), *supplied, *paths)


EVERYTHING = Scope()
EVERY_MESSAGE = MessageFilter()

_COMPARISONS = {
    "roles": "m.role = ANY(%(roles)s::text[])",
    "created_after": "m.created_at >= %(created_after)s",
    "created_before": "m.created_at < %(created_before)s",
}
_PATH = "m.metadata @@ %(metadata)s::jsonpath"
