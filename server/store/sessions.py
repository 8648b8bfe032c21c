"""Sessions: the table and its SQL."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import NamedTuple

from server.errors import AlreadyExists, NotFound
from server.principal import bound_user
from server.store.batch import Batch
from server.store.connection import Row
from server.store.held_user import hold_user
from server.store.metadata_path import checked_path
from server.store.moment import Moment
from server.store.ownership import OWNED, guarded, narrowed
from server.store.page import Page, Span, last_position, listing
from server.store.pool import Pool


class SessionRow(NamedTuple):
    """A live session. `metadata` is JSON text."""

    session_id: str
    id: int
    user_id: str | None
    metadata: str
    last_sequence: int
    created_at: Moment
    updated_at: Moment

    @property
    def position(self) -> int:
        """The listing position."""
        return self.id


class SessionFilter(NamedTuple):
    """Narrows a listing; None does not. `metadata` is a SQL/JSON path predicate."""

    user_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: str | None = None


class DeletedSession(NamedTuple):
    """What a delete did."""

    deleted_at: Moment
    messages_deleted: int


# A session is up to 64 KiB.
_MOST_READ_AT_ONCE = 64

EVERY_SESSION = SessionFilter()

COLUMNS = "session_id, id, user_id, metadata::text, last_sequence, created_at, updated_at"

# Upper bound of a row's size as a protobuf message, in bytes.
SIZE = """
    octet_length(session_id) + coalesce(octet_length(user_id), 0)
    + 4 * octet_length(metadata) + 100
"""

COMPARISONS = {
    "user_id": "user_id = %(user_id)s",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    "bound_user": OWNED,
}
PATH = "metadata @@ %(metadata)s::jsonpath"


class SessionStore:
    """Reads and writes sessions. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._reads = Batch(self._get_sessions, most=_MOST_READ_AT_ONCE)

    # A conflict with a live session updates nothing and so returns no row; nor does one with
    # a session that is not the caller's, deleted though it may be.
    ADD_SESSION = f"""
        INSERT INTO sessions AS s (session_id, user_id, metadata, created_at, updated_at)
        VALUES (
            %(session_id)s, %(user_id)s, %(metadata)s::jsonb,
            statement_timestamp(), statement_timestamp()
        )
        ON CONFLICT (session_id) DO UPDATE SET
            id = excluded.id,
            user_id = excluded.user_id,
            metadata = excluded.metadata,
            created_at = greatest(excluded.created_at, s.deleted_at),
            updated_at = greatest(excluded.updated_at, s.deleted_at),
            deleted_at = NULL,
            forgotten = false
        WHERE s.deleted_at IS NOT NULL AND {OWNED}
        RETURNING {COLUMNS}
    """

    async def add_session(
        self, session_id: str, *, user_id: str | None, metadata: str
    ) -> SessionRow:
        """Creates a session, and its user if need be, or starts a deleted session anew.

        Raises:
            AlreadyExists: The session is live, or another user's.
        """
        parameters = {
            "session_id": session_id,
            "user_id": user_id,
            "metadata": metadata,
            "bound_user": bound_user(),
        }
        async with (
            self._pool.connection() as connection,
            connection.transaction() if user_id else nullcontext(),
        ):
            if user_id:
                await hold_user(connection, user_id)
            row = await connection.fetch_one(self.ADD_SESSION, parameters)
            if row is None:
                raise AlreadyExists("Session", session_id)
            return SessionRow._make(row)

    GET_SESSION = f"""
        SELECT {COLUMNS} FROM sessions s
        WHERE session_id = %(session_id)s AND deleted_at IS NULL AND {OWNED}
    """

    async def get_session(self, session_id: str) -> SessionRow:
        """Gets a live session.

        Raises:
            NotFound: There is none.
        """
        return _found(session_id, await self._reads.do(session_id))

    GET_SESSIONS = f"""
        SELECT {COLUMNS} FROM sessions s
        WHERE session_id = ANY(%(session_ids)s) AND deleted_at IS NULL AND {OWNED}
    """

    async def _get_sessions(self, session_ids: Sequence[str]) -> list[Row | None]:
        async with self._pool.connection() as connection:
            if len(session_ids) == 1:  # of this PostgreSQL keeps the plan
                return [await connection.fetch_one(self.GET_SESSION, _named(session_ids[0]))]
            parameters = {"session_ids": list(set(session_ids)), "bound_user": bound_user()}
            rows = await connection.fetch(self.GET_SESSIONS, parameters)
        found = {row[0]: row for row in rows}
        return [found.get(session_id) for session_id in session_ids]

    # The row lock is for concurrent merges: each reads what the one before it wrote.
    LOCK_SESSION = GET_SESSION + " FOR NO KEY UPDATE"

    UPDATE_SESSION = f"""
        UPDATE sessions
        SET user_id = %(user_id)s, metadata = %(metadata)s::jsonb,
            updated_at = statement_timestamp()
        WHERE session_id = %(session_id)s
        RETURNING {COLUMNS}
    """

    async def update_session(
        self,
        session_id: str,
        change: Callable[[SessionRow], SessionRow],
        *,
        user_id: str | None = None,
    ) -> SessionRow:
        """Replaces a session's user and metadata by what `change` makes of the session.

        Nobody else writes to the session between the read and the write. What `change`
        raises undoes the update. The user that it gives to the session, if any, must be
        given as `user_id` too, and is created if need be.

        Raises:
            NotFound: There is no such live session.
        """
        async with self._pool.connection() as connection, connection.transaction():
            if user_id is not None:
                await hold_user(connection, user_id)
            locked = await connection.fetch_one(self.LOCK_SESSION, _named(session_id))
            row = change(_found(session_id, locked))
            updated = await connection.fetch_one(self.UPDATE_SESSION, row._asdict())
            return _found(session_id, updated)

    # A statement after the one that takes the lock, and so are its time and what it
    # sees: the delete comes after what it waited for, and takes the messages added
    # meanwhile with it.
    DELETE_SESSION = """
        WITH deleted AS (
            UPDATE sessions SET deleted_at = statement_timestamp()
            WHERE session_id = %(session_id)s
        ), deleted_messages AS (
            UPDATE messages SET deleted_at = statement_timestamp()
            WHERE session_id = %(session_id)s AND deleted_at IS NULL
            RETURNING sequence
        )
        SELECT statement_timestamp(), count(*) FROM deleted_messages
    """

    async def delete_session(self, session_id: str) -> DeletedSession:
        """Soft-deletes a session and all its messages, at one instant.

        Raises:
            NotFound: There is no such live session.
        """
        parameters = _named(session_id)
        async with self._pool.connection() as connection, connection.transaction():
            _found(session_id, await connection.fetch_one(self.LOCK_SESSION, parameters))
            deleted = await connection.fetch_one(self.DELETE_SESSION, parameters)
            return DeletedSession._make(deleted or ())

    LIST_SESSIONS = listing("sessions", COLUMNS, size=SIZE)

    # For a bound caller's path: sort first, and evaluate the path up to the end of the page. A plan
    # that evaluates it before it sorts would fail on sessions beyond the page, and which plan
    # PostgreSQL chooses depends on everybody's sessions. LIMIT, of all, keeps the path out of the
    # subquery, and lets the planner prefer an index in this order, of which the page needs a part.
    LIST_SESSIONS_IN_ORDER = listing(
        """(
            SELECT * FROM sessions s
            WHERE id > %(after)s AND id < %(before)s AND {visible}
            ORDER BY id {direction}
            LIMIT 9223372036854775807
        )""",
        COLUMNS,
        size=SIZE,
    )

    async def list_sessions(
        self, span: Span, *, limit: int, filter: SessionFilter = EVERY_SESSION
    ) -> Page[SessionRow]:
        """Lists live sessions by listing position.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
        """
        asked = {**filter._asdict(), "bound_user": bound_user()}
        given = {name: value for name, value in asked.items() if value is not None}
        comparisons = [COMPARISONS[name] for name in given if name in COMPARISONS]
        visible = " AND ".join(["deleted_at IS NULL", *comparisons])
        if filter.metadata is None or bound_user() is None:
            paths = [] if filter.metadata is None else [PATH]
            statement, condition = self.LIST_SESSIONS, narrowed(visible, *paths)
        else:
            statement, condition = self.LIST_SESSIONS_IN_ORDER, guarded(visible, PATH)
        statement = statement.format(visible=visible, condition=condition, direction=span.direction)
        parameters = {"limit": limit, "after": span.after, "before": span.before, **given}
        async with (
            self._pool.connection() as connection,
            checked_path(connection, filter.metadata),
        ):
            # Planned anew for each filter: one plan for all values would be none for most.
            rows = await connection.fetch(statement, parameters, prepare=not given)
            return Page.of(SessionRow, rows)

    LAST_ID = last_position("sessions")

    async def last_id(self) -> int:
        """Gets the last listing position in use, 0 if there is none."""
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.LAST_ID)
        return int(row[0]) if row else 0


def _named(session_id: str) -> dict[str, str | None]:
    """Gives the parameters that find a session."""
    return {"session_id": session_id, "bound_user": bound_user()}


def _found(session_id: str, row: Row | None) -> SessionRow:
    if row is None:
        raise NotFound("Session", session_id)
    return SessionRow._make(row)
