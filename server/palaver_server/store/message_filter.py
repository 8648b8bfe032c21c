"""The messages that a search looks at: its scope and its filter."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION, narrowed
from palaver_server.store.filters import comparisons, metadata_paths
from palaver_server.store.liveness import LIVE_MESSAGE, LIVE_SESSION


class ScopeSql(NamedTuple):
    """A scope in SQL.

    Attributes:
        source: What to select `messages m` from.
        condition: The condition that selects the scope's live messages.
        size: A subquery for their estimated number; only messages added just now may be missing.
    """

    source: str
    condition: str
    size: str


_ALL = ScopeSql(
    source="messages m",
    condition=LIVE_MESSAGE,
    size="SELECT reltuples FROM pg_class WHERE oid = 'messages'::regclass",
)
_IN_SESSION = ScopeSql(
    source="sessions s JOIN messages m USING (session_id)",
    condition=f"""
        s.session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
        AND m.deleted_at IS NULL
    """,
    size=f"""
        SELECT last_sequence FROM sessions s
        WHERE session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
    """,
)
_OF_USER = ScopeSql(
    source="sessions s JOIN messages m USING (session_id)",
    condition=f"""
        s.user_id = %(user_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
        AND m.deleted_at IS NULL
    """,
    size=f"""
        SELECT sum(last_sequence) FROM sessions s
        WHERE user_id = %(user_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
    """,
)
_OF_PREFIX = ScopeSql(
    source="sessions s JOIN messages m USING (session_id)",
    condition=f"""
        s.session_id ^@ %(session_id_prefix)s::text AND {LIVE_SESSION}
        AND {ACCESSIBLE_SESSION} AND m.deleted_at IS NULL
    """,
    size=f"""
        SELECT sum(last_sequence) FROM sessions s
        WHERE session_id ^@ %(session_id_prefix)s::text AND {LIVE_SESSION}
            AND {ACCESSIBLE_SESSION}
    """,
)


class Scope(NamedTuple):
    """The messages to search: of sessions that one of these selects, or all."""

    session_id: str | None = None
    user_id: str | None = None
    session_id_prefix: str | None = None

    def within(self, access: Access) -> "AccessibleScope":
        """Return the part of the scope that is in the caller's access scope."""
        if self.session_id is not None:
            sql = _IN_SESSION
        elif self.session_id_prefix is not None:
            sql = _OF_PREFIX
        elif self.user_id is not None or access.user_id is not None:
            sql = _OF_USER
        else:
            sql = _ALL
        user_id = access.user_id if self == ALL_MESSAGES else self.user_id
        parameters = {
            "session_id": self.session_id,
            "user_id": user_id,
            "session_id_prefix": self.session_id_prefix,
            "access_user_id": access.user_id,
        }
        return AccessibleScope(sql, parameters)


class AccessibleScope(NamedTuple):
    """A scope within an access scope, and its parameters, which include ACCESSIBLE_SESSION's."""

    sql: ScopeSql
    parameters: dict[str, str | None]

    @property
    def is_everything(self) -> bool:
        """Whether it holds the messages of all users."""
        return self.sql is _ALL

    @property
    def may_be_large(self) -> bool:
        """Whether an index of all messages may find its messages faster than its sessions do."""
        return self.sql in (_ALL, _OF_PREFIX)


class MessageFilter(NamedTuple):
    """The filter of a search, by the given fields. `metadata` is a SQL/JSON path predicate."""

    roles: Sequence[str] = ()
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: str | None = None

    @property
    def given(self) -> dict[str, Any]:
        """The given fields, as parameters."""
        return {
            name: list(value) if name == "roles" else value
            for name, value in self._asdict().items()
            if value
        }

    def sql(self, access: Access, accessible: str, *supplied: str) -> str:
        """Return the condition that selects the messages `m` which pass, as `narrowed` does.

        Its parameters are those of `accessible` and `supplied`, and `given`.

        Args:
            access: The caller's access scope.
            accessible: The condition that selects the messages to filter.
            supplied: The caller's other conditions; evaluated before the filter's path.
        """
        narrower = " AND ".join([accessible, *comparisons("m", self.given)])
        return narrowed(access, narrower, *supplied, *metadata_paths("m", self.metadata))


class SearchTemplate(StatementTemplate):
    """SQL whose text depends on the form of a search: its scope, and the fields of its filter.

    Args:
        parts: Returns the parts that fill in the placeholders. They depend only on whether the
            caller is bound, the scope's SQL, and which fields of the filter are given.
    """

    def __init__(
        self,
        name: str,
        sql: str,
        parts: Callable[[Access, AccessibleScope, MessageFilter], dict[str, str]],
    ) -> None:
        super().__init__(name, sql)
        self._parts = parts
        self._forms: dict[tuple[object, ...], Statement] = {}

    def of(
        self, access: Access, scope: AccessibleScope, filter: MessageFilter, **others: str
    ) -> Statement:
        """Return the statement of a search, with these other parts; composed once for each form."""
        form = (access.user_id is None, scope.sql, tuple(filter.given), *others.values())
        statement = self._forms.get(form)
        if statement is None:
            # Not prepared: a generic plan is bad for most texts, scopes and filters.
            statement = self.fill(is_prepared=False, **self._parts(access, scope, filter), **others)
            self._forms[form] = statement
        return statement


ALL_MESSAGES = Scope()
EVERY_MESSAGE = MessageFilter()
