"""Sessions: adding, getting, updating, deleting and listing them."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import datetime
from typing import NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.batching import Batcher
from palaver_server.database.connection import Connection, Row
from palaver_server.database.paging import (
    KeyRange,
    Page,
    counting,
    counting_in_order,
    last_position,
    listing,
    listing_in_order,
)
from palaver_server.database.pool import Pool
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement, StatementTemplate, set_timeout
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.errors import AlreadyExists, NotFound
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION
from palaver_server.store.ensure_user import ensure_user, lock_user
from palaver_server.store.expected import ANY, NONE_LIVE, Expected
from palaver_server.store.expiry import expire_session, extend_session
from palaver_server.store.listing import ListingTemplates, read_last_position, read_page
from palaver_server.store.liveness import LIVE_SESSION


class SessionRow(NamedTuple):
    """A live session. `metadata` is JSON text, `ttl` in microseconds; None: it does not expire."""

    session_id: str
    id: int
    user_id: str | None
    metadata: str
    last_sequence: int
    created_at: PgTimestamp
    updated_at: PgTimestamp
    revision: int
    ttl: int | None = None
    expires_at: PgTimestamp | None = None

    @property
    def position(self) -> int:
        """The listing position."""
        return self.id


class SessionFilter(NamedTuple):
    """The filter of a listing, by the given fields. `metadata` is a SQL/JSON path predicate."""

    user_id: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None
    session_id_prefix: str | None = None
    metadata: str | None = None


class IfMissing(NamedTuple):
    """What an update does if there is no live session.

    Attributes:
        undelete: Restore it, without its messages, if it is deleted and restorable.
        add: Otherwise create it.
    """

    undelete: bool = False
    add: bool = False


REFUSE = IfMissing()


class DeletedSession(NamedTuple):
    """The time of a delete, and how many messages it deleted."""

    deleted_at: PgTimestamp
    messages_deleted: int


# A session has up to 64 KiB: this bounds the memory of a batch.
_MAX_READS_PER_BATCH = 64

# An attempt fails if the session is created, deleted or restored at the same time.
_MAX_ATTEMPTS = 10

EVERY_SESSION = SessionFilter()

COLUMNS = """
    session_id, id, user_id, metadata::text, last_sequence, created_at, updated_at, revision, ttl,
    expires_at
"""

# Upper bound of a row's size as a protobuf message, in bytes.
SIZE = """
    octet_length(session_id) + coalesce(octet_length(user_id), 0)
    + 4 * octet_length(metadata) + 192
"""


GET_SESSION = Statement(
    "sessions.get",
    f"""
    SELECT {COLUMNS} FROM sessions s
    WHERE session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
""",
)


async def get_session(connection: Connection, access: Access, session_id: str) -> SessionRow:
    """Return a live session.

    Raises:
        NotFound: There is no such live session in the access scope.
    """
    return _found(session_id, await connection.fetch_one(GET_SESSION, _named(access, session_id)))


LOCK_SESSION = Statement("sessions.lock", GET_SESSION.sql + " FOR NO KEY UPDATE")


async def lock_session(connection: Connection, access: Access, session_id: str) -> SessionRow:
    """Return a live session, and lock its row until the transaction ends.

    All writes to a session and its messages hold this lock, so each reads what the one before it
    wrote. The time of a write is that of a later statement, so it is after the writes it waited
    for.

    Raises:
        NotFound: There is no such live session in the access scope.
    """
    row = await connection.fetch_one(LOCK_SESSION, _named(access, session_id))
    return _found(session_id, row)


class SessionStore:
    """The queries that read and write sessions. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.

    Args:
        reader: Runs the reads; None: the pool.
        filter_timeout: Maximum seconds for a statement with a caller's path.
    """

    def __init__(
        self, pool: Pool, reader: Reader | None = None, *, filter_timeout: float = 10
    ) -> None:
        self._pool = pool
        self._reader = reader or pool
        self._set_filter_timeout = (set_timeout(filter_timeout),)
        self._reads = Batcher(self._get_sessions, max_size=_MAX_READS_PER_BATCH)

    # A conflict with a live session, or with any session outside the access scope, updates nothing
    # and returns no row. A row to insert takes a listing position even if it conflicts, so there is
    # none if the conflict is certain, once writes to the session have ended.
    ADD_SESSION = Statement(
        "sessions.add",
        f"""
        INSERT INTO sessions AS s (session_id, user_id, metadata, created_at, updated_at, ttl)
        SELECT %(session_id)s, %(user_id)s, %(metadata)s::jsonb,
            coalesce(%(created_at)s::timestamptz, statement_timestamp()), statement_timestamp(),
            %(ttl)s::bigint
        WHERE NOT EXISTS (
            SELECT 1 FROM sessions s
            WHERE session_id = %(session_id)s
                AND (s.deleted_at IS NULL OR NOT {ACCESSIBLE_SESSION})
            FOR NO KEY UPDATE
        )
        ON CONFLICT (session_id) DO UPDATE SET
            id = excluded.id,
            user_id = excluded.user_id,
            metadata = excluded.metadata,
            created_at = coalesce(
                %(created_at)s::timestamptz,
                greatest(excluded.created_at, s.updated_at, s.deleted_at)
            ),
            updated_at = greatest(excluded.updated_at, s.updated_at, s.deleted_at),
            deleted_at = NULL,
            forgotten = false,
            ttl = excluded.ttl,
            expires_at = NULL -- then a trigger sets it
        WHERE s.deleted_at IS NOT NULL AND {ACCESSIBLE_SESSION}
        RETURNING {COLUMNS}
    """,
    )

    async def add_session(  # noqa: PLR0913 - most by name
        self,
        access: Access,
        session_id: str,
        *,
        user_id: str | None,
        metadata: str,
        created_at: datetime | None = None,
        user_must_exist: bool = False,
        ttl: int | None = None,
    ) -> SessionRow:
        """Create a session, or start a deleted one again; get or create its user.

        Args:
            access: The caller's access scope.
            session_id: The session's id.
            user_id: Its user's id; None: none.
            metadata: Its metadata as JSON.
            created_at: The time of its creation; None: now.
            user_must_exist: Whether to get the user only.
            ttl: Its TTL in microseconds; None or 0: none.

        Raises:
            AlreadyExists: The session is live, or outside the access scope.
            NotFound: The user must exist, and does not.
        """
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False) if user_id else nullcontext(),
        ):
            if user_id and user_must_exist:
                await lock_user(connection, user_id)
            elif user_id:
                await ensure_user(connection, user_id)
            new = _blank(session_id, user_id)._replace(metadata=metadata, ttl=new_ttl(ttl, None))
            row = await self._start(connection, access, new, created_at)
            if row is None:  # it is live or has expired
                async with (
                    nullcontext() if user_id else connection.in_transaction(has_timeout=False)
                ):
                    if await expire_session(connection, session_id):
                        row = await self._start(connection, access, new, created_at)
            if row is None:
                raise AlreadyExists("Session", session_id)
            return row

    async def _start(
        self,
        connection: Connection,
        access: Access,
        row: SessionRow,
        created_at: datetime | None = None,
    ) -> SessionRow | None:
        """Create a session, or start a deleted one again; return None if there is a live one."""
        parameters = {
            **row._asdict(), "created_at": created_at, "access_user_id": access.user_id
        }  # fmt: skip
        started = await connection.fetch_one(self.ADD_SESSION, parameters)
        return SessionRow._make(started) if started else None

    async def get_session(self, access: Access, session_id: str) -> SessionRow:
        """Return a live session. Reads that start together share a statement.

        Raises:
            NotFound: There is no such live session.
        """
        return _found(session_id, await self._reads.submit(access, session_id))

    GET_SESSIONS = Statement(
        "sessions.get_many",
        f"""
        SELECT {COLUMNS} FROM sessions s
        WHERE session_id = ANY(%(session_ids)s) AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
    """,
    )

    async def _get_sessions(self, access: Access, session_ids: Sequence[str]) -> list[Row | None]:
        if len(session_ids) == 1:  # PostgreSQL caches the plan of this one
            named = _named(access, session_ids[0])
            row = await self._reader.read(
                lambda connection: connection.fetch_one(GET_SESSION, named), access.principal
            )
            return [row]
        parameters = {"session_ids": list(set(session_ids)), "access_user_id": access.user_id}
        rows = await self._reader.read(
            lambda connection: connection.fetch(self.GET_SESSIONS, parameters), access.principal
        )
        found = {row[0]: row for row in rows}
        return [found.get(session_id) for session_id in session_ids]

    UPDATE_SESSION = Statement(
        "sessions.update",
        f"""
        UPDATE sessions
        SET user_id = %(user_id)s, metadata = %(metadata)s::jsonb, ttl = %(ttl)s::bigint,
            updated_at = greatest(updated_at, statement_timestamp())
        WHERE session_id = %(session_id)s
        RETURNING {COLUMNS}
    """,
    )

    # The user is live: deleting it makes its sessions not restorable.
    UNDELETE_SESSION = Statement(
        "sessions.undelete",
        f"""
        UPDATE sessions s
        SET deleted_at = NULL, updated_at = greatest(s.updated_at, statement_timestamp())
        WHERE session_id = %(session_id)s AND deleted_at IS NOT NULL AND NOT forgotten
            AND {ACCESSIBLE_SESSION}
        RETURNING {COLUMNS}
    """,
    )

    async def update_session(  # noqa: PLR0913 - most by name
        self,
        access: Access,
        session_id: str,
        change: Callable[[SessionRow], SessionRow],
        *,
        user_id: str | None = None,
        expected: Expected = ANY,
        if_missing: IfMissing = REFUSE,
    ) -> SessionRow:
        """Update a session's user, metadata and TTL to those that `change` returns.

        The session is locked between the read and the write. An exception from `change` rolls
        back. If `change` changes nothing, nothing is written but the expiry.

        Args:
            access: The caller's access scope.
            session_id: The session's id.
            change: Returns the new session for the current one.
            user_id: The user that `change` gives to the session, if any; it is created if it does
                not exist.
            expected: The state that the session must be in.
            if_missing: What to do if there is no such live session. To a new one, `change` is
                applied with `user_id` as its user and without metadata.

        Raises:
            NotFound: There is no such live session.
            StaleRevision: The session is in another state than the expected one.
        """
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False),
        ):
            if user_id is not None:
                await ensure_user(connection, user_id)
            for _ in range(_MAX_ATTEMPTS):  # a session may be created or restored in between
                locked = await connection.fetch_one(LOCK_SESSION, _named(access, session_id))
                if locked is not None:
                    expected.check(revision=SessionRow._make(locked).revision)
                elif if_missing == REFUSE:
                    break
                else:
                    expected.check(revision=NONE_LIVE)
                    await expire_session(connection, session_id)
                    if if_missing.undelete:
                        locked = await connection.fetch_one(
                            self.UNDELETE_SESSION, _named(access, session_id)
                        )
                if locked is not None:
                    row = SessionRow._make(locked)
                    return await self._update(connection, row, change(row))
                if not if_missing.add:
                    break
                added = await self._start(connection, access, change(_blank(session_id, user_id)))
                if added is not None:
                    return added
            raise NotFound("Session", session_id)  # here, so that it undoes the user's creation

    async def _update(
        self, connection: Connection, row: SessionRow, changed: SessionRow
    ) -> SessionRow:
        if changed == row:
            expires_at = await extend_session(connection, row.session_id) if row.ttl else None
            return row._replace(expires_at=expires_at)
        updated = await connection.fetch_one(self.UPDATE_SESSION, changed._asdict())
        return _found(row.session_id, updated)

    # A statement after the one that takes the lock: its time is after the writes that the lock
    # waited for, and its snapshot contains the messages that they added.
    DELETE_SESSION = Statement(
        "sessions.delete",
        """
        WITH deleted AS (
            UPDATE sessions SET deleted_at = statement_timestamp()
            WHERE session_id = %(session_id)s
            RETURNING deleted_at
        ), deleted_messages AS (
            UPDATE messages m SET deleted_at = deleted.deleted_at
            FROM deleted
            WHERE m.session_id = %(session_id)s AND m.deleted_at IS NULL
            RETURNING sequence
        )
        SELECT deleted_at, (SELECT count(*) FROM deleted_messages) FROM deleted
    """,
    )

    async def delete_session(
        self, access: Access, session_id: str, expected: Expected = ANY
    ) -> DeletedSession:
        """Soft-delete a session and all its messages, with one timestamp.

        Raises:
            NotFound: There is no such live session.
            StaleRevision: The session is in another state than the expected one.
            StaleLastSequence: As StaleRevision.
        """
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False),
        ):
            row = await lock_session(connection, access, session_id)
            expected.check(revision=row.revision, last_sequence=row.last_sequence)
            deleted = await connection.fetch_one(self.DELETE_SESSION, {"session_id": session_id})
            return DeletedSession._make(deleted or ())

    LIST_SESSIONS = StatementTemplate("sessions.list", listing("sessions", COLUMNS, size=SIZE))
    LIST_SESSIONS_IN_ORDER = StatementTemplate(
        "sessions.list", listing_in_order("sessions", COLUMNS, size=SIZE)
    )

    async def list_sessions(
        self,
        access: Access,
        key_range: KeyRange,
        *,
        limit: int,
        filter: SessionFilter = EVERY_SESSION,
    ) -> Page[SessionRow]:
        """List live sessions by listing position.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The statement exceeded its timeout.
        """
        rows = await read_page(
            self._reader,
            access,
            templates=ListingTemplates(
                self.LIST_SESSIONS, self.LIST_SESSIONS_IN_ORDER, live=LIVE_SESSION
            ),
            key_range=key_range,
            limit=limit,
            filter=filter,
            set_filter_timeout=self._set_filter_timeout,
        )
        return Page.of(SessionRow, rows)

    COUNT_SESSIONS = StatementTemplate("sessions.count", counting("sessions"))
    COUNT_SESSIONS_IN_ORDER = StatementTemplate("sessions.count", counting_in_order("sessions"))

    async def count_sessions(
        self, access: Access, *, limit: int, filter: SessionFilter = EVERY_SESSION
    ) -> int:
        """Count live sessions, up to one more than the limit.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The statement exceeded its timeout.
        """
        rows = await read_page(
            self._reader,
            access,
            templates=ListingTemplates(
                self.COUNT_SESSIONS, self.COUNT_SESSIONS_IN_ORDER, live=LIVE_SESSION
            ),
            key_range=KeyRange(),
            limit=limit,
            filter=filter,
            set_filter_timeout=self._set_filter_timeout,
        )
        return int(rows[0][0])

    LAST_ID = Statement("sessions.last_id", last_position("sessions"))

    async def last_id(self, access: Access) -> int:
        """Return the last listing position in use, 0 if there is none; of all users' sessions."""
        return await read_last_position(self._reader, access, self.LAST_ID)


def new_ttl(given: int | None, current: int | None) -> int | None:
    """Return the TTL of a session after a write: 0 ends the current one, None leaves it."""
    return current if given is None else given or None


def _blank(session_id: str, user_id: str | None) -> SessionRow:
    """Return a session that is to be created; the database sets its numbers and times."""
    return SessionRow(session_id, 0, user_id, "{}", 0, PgTimestamp(0), PgTimestamp(0), 0)


def _named(access: Access, session_id: str) -> dict[str, str | None]:
    """Return the parameters that find a session."""
    return {"session_id": session_id, "access_user_id": access.user_id}


def _found(session_id: str, row: Row | None) -> SessionRow:
    if row is None:
        raise NotFound("Session", session_id)
    return SessionRow._make(row)
