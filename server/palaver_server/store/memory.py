"""Memory: adds messages to a session, and gets the newest ones back."""

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import Enum, auto
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from psycopg import Error, Rollback
from psycopg.errors import UniqueViolation

from palaver_server.auth.access import Access
from palaver_server.database.batching import Batcher
from palaver_server.database.connection import Connection, Row
from palaver_server.database.metadata_path import checked_path
from palaver_server.database.paging import MAX_PAGE_BYTES, Page
from palaver_server.database.pool import Pool
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement, StatementTemplate, set_timeout
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.errors import DatabaseUnavailable, FieldViolation, InvalidRequest, NotFound
from palaver_server.offload import offload
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION
from palaver_server.store.embedding_queue import NO_QUEUE, EmbeddingQueue
from palaver_server.store.ensure_user import ENSURED, ensure_user
from palaver_server.store.expected import ANY, NONE_LIVE, Expected
from palaver_server.store.expiry import DELETE_EXPIRED, delete_locked, extend_session
from palaver_server.store.liveness import EXPIRED_SESSION, LIVE_SESSION
from palaver_server.store.message_filter import MessageFilter
from palaver_server.store.messages import (
    MessageParts,
    MessageRow,
    live_by_id,
    passing_messages,
)
from palaver_server.store.sessions import SessionRow, SessionStore, get_session, lock_session
from palaver_server.store.users import UserStore, change_locked_user
from palaver_server.store.uuid7 import uuid7
from palaver_server.store.window import (
    COMMON_ROLES,
    MAX_PINNED,
    QUARTER_TOKENS,
    Candidate,
    Window,
    choose_messages,
    starting_at,
)

# An answer has up to 4 MiB: this bounds the memory of a batch.
_MAX_READS_PER_BATCH = 16

_MAX_APPENDS_PER_BATCH = 32
_MAX_BATCHED_APPEND_CHARACTERS = 16 * 1024  # of contents, and of metadata

# Maximum size of a window's messages and the session's metadata together, and the metadata, in
# characters, that fits in any case: MAX_PAGE_BYTES leaves room for it.
_MAX_WINDOW_BYTES = 4 * 1024 * 1024 - 16 * 1024
_SMALL_METADATA = 8 * 1024

# An attempt fails if the session is created, or deleted with its user, at the same time.
_MAX_ATTEMPTS = 10

# The messages of a request, as a table; without and with payloads, which few have.
INPUT = """
    SELECT *, NULL::bytea AS payload, NULL::text AS payload_type FROM unnest(
        %(message_ids)b::text[], %(roles)b::text[], %(contents)b::text[],
        %(token_counts)s::integer[], %(metadatas)b::text[]::jsonb[],
        %(created_ats)s::timestamptz[]
    ) WITH ORDINALITY AS input
        (message_id, role, content, token_count, metadata, created_at, position)
"""
INPUT_WITH_PAYLOADS = """
    SELECT message_id, role, content, token_count, metadata, created_at, position,
        nullif(payload, '') AS payload, nullif(payload_type, '') AS payload_type
    FROM unnest(
        %(message_ids)b::text[], %(roles)b::text[], %(contents)b::text[],
        %(token_counts)s::integer[], %(metadatas)b::text[]::jsonb[],
        %(created_ats)s::timestamptz[], %(payloads)b::bytea[], %(payload_types)b::text[]
    ) WITH ORDINALITY AS input
        (message_id, role, content, token_count, metadata, created_at, payload, payload_type,
        position)
"""


# Writes the row of a message again: of a live one that changes, or of a deleted one.
_REWRITE = """
    ON CONFLICT (session_id, message_id) DO UPDATE SET
        sequence = excluded.sequence,
        role = excluded.role,
        content = excluded.content,
        words = excluded.words,
        token_count = excluded.token_count,
        metadata = excluded.metadata,
        payload = excluded.payload,
        payload_type = excluded.payload_type,
        created_at = excluded.created_at,
        updated_at = greatest(m.updated_at, excluded.updated_at),
        deleted_at = NULL
"""

# Creates a session without a user, unless it exists in any state. If another call creates it while
# the statement runs, the statement fails with a unique violation.
_CREATE = """
    ), created AS (
        INSERT INTO sessions (session_id, last_sequence, created_at, updated_at)
        SELECT %(session_id)s, added, time, time FROM change
        WHERE NOT EXISTS (SELECT 1 FROM existing)
            AND NOT EXISTS (SELECT 1 FROM sessions WHERE session_id = %(session_id)s)
        RETURNING last_sequence, updated_at, true AS created
"""


class NewMessage(NamedTuple):
    """A message to add; `metadata` is JSON text. None as `message_id` generates an id.

    An empty payload or type is none.
    """

    message_id: str | None
    role: str
    content: str
    token_count: int
    metadata: str
    created_at: datetime | None
    payload: bytes = b""
    payload_type: str = ""


class AddedMessage(NamedTuple):
    """The id, sequence and time that a message was stored with."""

    message_id: str
    sequence: int
    created_at: PgTimestamp


class AddedMemory(NamedTuple):
    """The result of adding memory.

    Attributes:
        session_created: Whether the session was created, or started again.
        session_undeleted: Whether the session was restored.
        messages: The messages, in the order of the request.
        messages_deleted: How many messages were replaced.
        session: The session, if it was asked for.
        changes: Whether anything was written.
    """

    session_created: bool
    session_undeleted: bool
    messages: list[AddedMessage]
    messages_deleted: int = 0
    session: SessionRow | None = None
    changes: bool = False


class AddOptions(NamedTuple):
    """What AddMemory does besides appending messages.

    Attributes:
        expected: The state that the session must be in.
        session_must_exist: Neither create nor restore the session.
        change_session: Returns the session with other metadata or another TTL; applied if anything
            else changes. None: no change.
        change_user: The same for the metadata of the session's user, as JSON.
        replaces: Delete all live messages, unless they are those to add.
        with_session: Return the session.
    """

    expected: Expected = ANY
    session_must_exist: bool = False
    change_session: Callable[[SessionRow], SessionRow] | None = None
    change_user: Callable[[str], str] | None = None
    replaces: bool = False
    with_session: bool = False

    @property
    def is_append(self) -> bool:
        """Whether one statement without a lock before it can do it all."""
        return self == APPEND or self == AddOptions(session_must_exist=True)


APPEND = AddOptions()


class MemoryRow(NamedTuple):
    """The window of a session.

    Attributes:
        messages: The messages, oldest first, and whether others pass the filter.
        metadata: The session's metadata as JSON text.
        session: The session, if it was asked for.
        total_count: The number of messages that pass the filter, if it was asked for.
    """

    messages: Page[MessageRow]
    metadata: str
    session: SessionRow | None = None
    total_count: int | None = None


class _Read(NamedTuple):
    """A read of the newest messages."""

    session_id: str
    last_n: int
    max_tokens: int
    without_payload: bool


class _State(Enum):
    """The state of a session that messages are added to."""

    ABSENT = auto()
    LIVE = auto()
    RESTORABLE = auto()  # deleted; comes back with its user and metadata
    NOT_RESTORABLE = auto()  # deleted with its user; starts again as a new session


class _LockedSession(NamedTuple):
    """A session in any state. Its user is None where it has none that it would keep."""

    state: _State
    user_id: str | None = None
    revision: int = NONE_LIVE
    last_sequence: int = 0

    @property
    def is_restorable(self) -> bool:
        """Whether it is live, or comes back with its user."""
        return self.state in (_State.LIVE, _State.RESTORABLE)


class _AddStatements(NamedTuple):
    """The statements that take the messages of a request, for one form of them."""

    add_or_create: Statement
    add: Statement
    add_locked: Statement
    create: Statement
    compare: Statement


class MemoryStore:
    """The queries that add and get memory. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.

    Args:
        queue: The queue of messages that wait for a vector.
        reader: Runs the reads; None: the pool.
        language: The search language.
        filter_timeout: Maximum seconds for a statement with a caller's path.
        metadata_size: Returns the encoded size of metadata; it may take long for large metadata.
    """

    def __init__(  # noqa: PLR0913 - all but the first three by name
        self,
        pool: Pool,
        queue: EmbeddingQueue = NO_QUEUE,
        reader: Reader | None = None,
        *,
        language: str = "english",
        filter_timeout: float = 10,
        metadata_size: Callable[[str], int] = lambda metadata: 4 * len(metadata.encode()),
    ) -> None:
        self._pool = pool
        self._metadata_size = metadata_size
        self._reader = reader or pool
        self._set_filter_timeout = (set_timeout(filter_timeout),)
        self._queue = queue
        self._language = language
        enqueue = queue.enqueue_written
        existing = "SELECT * FROM existing"
        unlocked: dict[str, Any] = {"is_locked": False, "on_conflict": "", "enqueue": enqueue}
        locked: dict[str, Any] = {"is_locked": True, "on_conflict": _REWRITE, "enqueue": enqueue}
        self._statements, self._statements_with_payloads = (
            _AddStatements(
                add_or_create=self.ADD_MEMORY.fill(
                    input=messages,
                    create=_CREATE,
                    session=f"{existing} UNION ALL SELECT * FROM created",
                    **unlocked,
                ),
                add=self.ADD_MEMORY.fill(input=messages, create="", session=existing, **unlocked),
                add_locked=self.ADD_MEMORY.fill(
                    input=messages, create="", session=existing, **locked
                ),
                create=self.CREATE_SESSION.fill(enqueue=enqueue, input=messages),
                compare=self.COMPARE_MESSAGES.fill(input=messages),
            )
            for messages in (INPUT, INPUT_WITH_PAYLOADS)
        )
        self._append = self.APPEND.fill(enqueue=enqueue)
        self._appends = Batcher(self._append_all, max_size=_MAX_APPENDS_PER_BATCH)
        self._reads = Batcher(self._get_all, max_size=_MAX_READS_PER_BATCH)

    # `kept` are the live messages whose ids the request contains: they keep their sequences, and
    # are written only if something changes. All other messages get the next sequences of the
    # session's row, which the statement locks. The row of a deleted message with the same id is
    # written again. The time of the change is '-infinity' if all messages are kept unchanged: the
    # session keeps its `updated_at`.
    #
    # The snapshot of the statement is older than its wait for the session's lock. Where it has to
    # see the session's messages or its deletion, the session must be locked by a statement before
    # it (`is_locked`). `create` may create a missing session. Both are part of the text: with
    # parameters, PostgreSQL would plan the statement each time, which takes as long as running it.
    # The session is updated, not inserted ON CONFLICT: each such attempt takes a listing position.
    ADD_MEMORY = StatementTemplate(
        "memory.add",
        f"""
        WITH input AS (
            {{input}}
        ), named AS MATERIALIZED (
            SELECT ids.*, {live_by_id("m")} AS m FROM input ids WHERE {{is_locked}}
        ), kept AS (
            SELECT message_id, (m).sequence, (m).created_at,
                ((m).role, (m).content, (m).token_count, (m).metadata, (m).payload_type,
                    (m).payload)
                    IS DISTINCT FROM (role, content, token_count, metadata, payload_type, payload)
                    AS changed
            FROM named WHERE (m).sequence IS NOT NULL
        ), change AS (
            SELECT cardinality(%(message_ids)b::text[]) - (SELECT count(*) FROM kept) AS added,
                CASE cardinality(%(message_ids)b::text[])
                    WHEN (SELECT count(*) FROM kept WHERE NOT changed) THEN '-infinity'
                    ELSE statement_timestamp() END AS time
        ), existing AS (
            UPDATE sessions s SET
                last_sequence = s.last_sequence + change.added,
                updated_at = greatest(s.updated_at, s.deleted_at, change.time),
                deleted_at = NULL
            FROM change
            WHERE s.session_id = %(session_id)s
                AND ({{is_locked}} OR {LIVE_SESSION})
                AND {ACCESSIBLE_SESSION}
            RETURNING s.last_sequence, s.updated_at, false AS created
            {{create}}
        ), session AS (
            {{session}}
        ), numbered AS (
            SELECT input.*, session.updated_at, kept.created_at AS kept_created_at,
                coalesce(kept.changed, true) AS to_write,
                coalesce(kept.sequence, session.last_sequence + 1 - count(*)
                    FILTER (WHERE kept.sequence IS NULL) OVER (ORDER BY position DESC)) AS sequence
            FROM session CROSS JOIN input LEFT JOIN kept USING (message_id)
        ), written AS (
            INSERT INTO messages AS m
                (session_id, sequence, message_id, role, content, words, token_count, metadata,
                payload, payload_type, created_at, updated_at)
            SELECT %(session_id)s, sequence, message_id, role, content,
                search_words(content, %(language)s::regconfig),
                token_count, metadata, payload, payload_type,
                coalesce(kept_created_at, created_at, updated_at), updated_at
            FROM numbered WHERE to_write
            {{on_conflict}}
            RETURNING session_id, message_id, sequence, created_at
        ){{enqueue}}
        SELECT session.created, to_write, message_id, numbered.sequence,
            coalesce(written.created_at, numbered.kept_created_at)
        FROM session CROSS JOIN numbered LEFT JOIN written USING (message_id)
        ORDER BY position
    """,
    )

    # Creates a session, with its user, in one statement: the subquery on `ensured` makes
    # PostgreSQL lock the user before it inserts the session. No rows: the session exists, in any
    # state, and nothing was locked or changed. A session that is created while the statement runs
    # fails it with a unique violation, which undoes the creation of the user. `ensured` returns
    # the time of a deleted user's new life: it can be later than the statement's.
    CREATE_SESSION = StatementTemplate(
        "memory.create_session",
        f"""
        WITH input AS (
            {{input}}
        ), absent AS (
            SELECT %(session_id)s AS session_id
            WHERE NOT EXISTS (SELECT 1 FROM sessions WHERE session_id = %(session_id)s)
        ), {
            ENSURED.format(
                condition="%(user_id)s::text IS NOT NULL AND EXISTS (SELECT 1 FROM absent)"
            )
        }, session AS (
            INSERT INTO sessions (session_id, user_id, last_sequence, created_at, updated_at)
            SELECT session_id, %(user_id)s, cardinality(%(message_ids)b::text[]), time, time
            FROM absent CROSS JOIN (
                SELECT greatest(statement_timestamp(), max(created_at)) AS time FROM ensured
            ) locked
            RETURNING session_id, updated_at
        ), written AS (
            INSERT INTO messages
                (session_id, sequence, message_id, role, content, words, token_count, metadata,
                payload, payload_type, created_at, updated_at)
            SELECT session_id, position, message_id, role, content,
                search_words(content, %(language)s::regconfig),
                token_count, metadata, payload, payload_type, coalesce(created_at, updated_at),
                updated_at
            FROM session CROSS JOIN input
            RETURNING session_id, message_id, sequence, created_at
        ){{enqueue}}
        SELECT true, true, message_id, sequence, created_at FROM written
        ORDER BY sequence
    """,
    )

    async def add_memory(
        self,
        access: Access,
        session_id: str,
        messages: Sequence[NewMessage],
        *,
        user_id: str | None,
        options: AddOptions = APPEND,
    ) -> AddedMemory:
        """Append messages, in order and without gaps; update those whose id is live.

        Creates the session, for `user_id`, if it is absent or not restorable; restores it if it
        is deleted. Short appends that start together share a statement.

        Raises:
            NotFound: The session exists outside the access scope, or must exist and does not.
            StaleRevision: The session is in another state than the expected one.
            StaleLastSequence: As StaleRevision.
            InvalidRequest: The metadata of a user is to change, and the session has none.
        """
        if options.is_append and _is_short(messages) and not self._appends.claim():
            added = await self._appends.submit(access, (session_id, messages))
            if added is not None:
                return added
        parameters = {
            "session_id": session_id,
            "user_id": user_id,
            "access_user_id": access.user_id,
            "language": self._language,
            **_columns(messages),
        }
        async with self._pool.connection(access.principal) as connection:
            rows = []
            if options.is_append:
                rows = await self._add_unlocked(
                    connection, parameters, must_exist=options.session_must_exist
                )
            if rows:
                added = _added(rows, created=rows[0][0])
            else:
                added = await self._lock_and_add(connection, access, parameters, options)
        self._queue.notify()
        return added

    def _adding(self, parameters: dict[str, Any]) -> _AddStatements:
        return self._statements_with_payloads if parameters["payloads"] else self._statements

    async def _add_unlocked(
        self, connection: Connection, parameters: dict[str, Any], *, must_exist: bool
    ) -> list[Row]:
        """Append new messages to a live session, or create it.

        Returns no rows if the session is in another state, or ever had one of the ids.
        """
        try:
            if parameters["user_id"] is None and not must_exist:
                return await connection.fetch(self._adding(parameters).add_or_create, parameters)
            rows = await connection.fetch(self._adding(parameters).add, parameters)
            if rows or must_exist:
                return rows
            return await connection.fetch(self._adding(parameters).create, parameters)
        except UniqueViolation:  # of an id, or of a session that is created at the same time
            return []

    async def _lock_and_add(
        self,
        connection: Connection,
        access: Access,
        parameters: dict[str, Any],
        options: AddOptions,
    ) -> AddedMemory:
        """Add to a session, in any state, under its lock.

        A user is locked before its sessions. So an attempt that finds that it needs the lock of a
        user that it has not, or the reverse, is rolled back, and the next one knows.
        """
        locked_user_id: str | None = None
        for _ in range(_MAX_ATTEMPTS):
            try:
                async with connection.in_transaction(has_timeout=False):
                    user = await self._lock_user(connection, access, locked_user_id, options)
                    session = await self._lock_session(connection, parameters)
                    owner = session.user_id if session.is_restorable else parameters["user_id"]
                    starts = session.state is _State.NOT_RESTORABLE or (
                        session.state is _State.ABSENT and not parameters["message_ids"]
                    )
                    needed_user_id = owner if options.change_user or starts else None
                    if needed_user_id != locked_user_id:
                        locked_user_id = needed_user_id
                        raise Rollback
                    _check(session, owner, parameters["session_id"], options)
                    added = await self._write(connection, parameters, session.state, options)
                    if added is None:
                        raise Rollback
                    return await self._change_state(
                        connection, access, parameters["session_id"], added, user, options
                    )
            except UniqueViolation:  # the session was created at the same time
                continue
        raise DatabaseUnavailable

    async def _lock_user(
        self, connection: Connection, access: Access, user_id: str | None, options: AddOptions
    ) -> Row | None:
        """Lock a user, which is created if it does not exist; return it if it is to change.

        The row is that of `UserStore.LOCK_USER`.
        """
        if user_id is None:
            return None
        await ensure_user(connection, user_id)
        if options.change_user is None:
            return None
        named = {"user_id": user_id, "access_user_id": access.user_id}
        return await connection.fetch_one(UserStore.LOCK_USER, named)

    # The live messages next to those of a request, in the order of both.
    COMPARE_MESSAGES = StatementTemplate(
        "memory.compare",
        """
        WITH input AS (
            {input}
        ), live AS (
            SELECT m.*, row_number() OVER (ORDER BY sequence) AS position FROM (
                SELECT * FROM messages
                WHERE session_id = %(session_id)s AND deleted_at IS NULL
                ORDER BY sequence
                LIMIT cardinality(%(message_ids)b::text[]) + 1
            ) m
        )
        SELECT (live.role, live.content, live.token_count, live.metadata, live.payload_type,
                live.payload) IS NOT DISTINCT FROM
                (input.role, input.content, input.token_count, input.metadata, input.payload_type,
                input.payload)
                AND coalesce(input.created_at, live.created_at) = live.created_at,
            live.message_id, live.sequence, live.created_at
        FROM live FULL JOIN input USING (position)
        ORDER BY position
    """,
    )

    DELETE_ALL = Statement(
        "memory.delete_all",
        """
        WITH touched AS (
            UPDATE sessions SET updated_at = greatest(updated_at, statement_timestamp())
            WHERE session_id = %(session_id)s
        )
        UPDATE messages SET deleted_at = statement_timestamp()
        WHERE session_id = %(session_id)s AND deleted_at IS NULL
    """,
    )

    async def _write(
        self,
        connection: Connection,
        parameters: dict[str, Any],
        state: _State,
        options: AddOptions,
    ) -> AddedMemory | None:
        """Write the messages to a locked session; return None if it was created meanwhile."""
        messages_deleted = 0
        if options.replaces and state is _State.LIVE:
            same = await self._same_messages(connection, parameters)
            if same is not None:
                await extend_session(connection, parameters["session_id"])
                return AddedMemory(session_created=False, session_undeleted=False, messages=same)
            messages_deleted = await connection.run(self.DELETE_ALL, parameters)
        rows = await self._add_in_state(connection, parameters, state)
        if rows is None:
            return None
        added = _added(
            rows,
            created=state in (_State.ABSENT, _State.NOT_RESTORABLE),
            undeleted=state is _State.RESTORABLE,
        )
        changes = added.changes or messages_deleted > 0
        return added._replace(messages_deleted=messages_deleted, changes=changes)

    async def _same_messages(
        self, connection: Connection, parameters: dict[str, Any]
    ) -> list[AddedMessage] | None:
        """Return the live messages if they are those of the request, otherwise None."""
        rows = await connection.fetch(self._adding(parameters).compare, parameters)
        given: list[str | None] = parameters["given_ids"]
        if len(rows) != len(given):
            return None
        same = all(
            row[0] and given_id in (None, row[1]) for row, given_id in zip(rows, given, strict=True)
        )
        return [AddedMessage._make(row[1:]) for row in rows] if same else None

    async def _change_state(  # noqa: PLR0913, PLR0917 - one call
        self,
        connection: Connection,
        access: Access,
        session_id: str,
        added: AddedMemory,
        user: Row | None,
        options: AddOptions,
    ) -> AddedMemory:
        """Change the session itself and its user, if anything else was changed."""
        change_user = options.change_user
        if added.changes and change_user and user is not None:
            await change_locked_user(
                connection, user, lambda row: row._replace(metadata=change_user(row.metadata))
            )
        changes_session = added.changes and options.change_session is not None
        if not (changes_session or options.with_session):
            return added
        session = await lock_session(connection, access, session_id)
        if options.change_session is not None and added.changes:
            changed = options.change_session(session)
            if changed != session:
                updated = await connection.fetch_one(SessionStore.UPDATE_SESSION, changed._asdict())
                session = SessionRow._make(updated or ())
        return added._replace(session=session if options.with_session else None)

    # Sessions in any state.
    LOCK_SESSION = Statement(
        "memory.lock_session",
        f"""
        SELECT last_sequence, revision, user_id, deleted_at IS NOT NULL, {EXPIRED_SESSION},
            forgotten, {ACCESSIBLE_SESSION}
        FROM sessions s WHERE session_id = %(session_id)s
        FOR NO KEY UPDATE
    """,
    )

    async def _lock_session(
        self, connection: Connection, parameters: dict[str, Any]
    ) -> _LockedSession:
        """Lock a session, in any state; record that it is deleted if it has expired.

        Raises:
            NotFound: The session exists outside the access scope.
        """
        row = await connection.fetch_one(self.LOCK_SESSION, parameters)
        if row is None:
            return _LockedSession(_State.ABSENT)
        last_sequence, revision, user_id, is_deleted, has_expired, is_forgotten, is_accessible = row
        if not is_accessible:
            raise NotFound("Session", parameters["session_id"])
        if is_forgotten:
            return _LockedSession(_State.NOT_RESTORABLE, last_sequence=last_sequence)
        if has_expired:
            await delete_locked(connection, DELETE_EXPIRED, [parameters["session_id"]])
        if is_deleted or has_expired:
            return _LockedSession(_State.RESTORABLE, user_id, last_sequence=last_sequence)
        return _LockedSession(_State.LIVE, user_id, revision, last_sequence)

    async def _add_in_state(
        self, connection: Connection, parameters: dict[str, Any], state: _State
    ) -> list[Row] | None:
        """Add to a locked session, or create it; return None if it exists meanwhile."""
        messages = parameters["message_ids"]
        if state is _State.NOT_RESTORABLE or (state is _State.ABSENT and not messages):
            fresh = {**parameters, "metadata": "{}", "created_at": None, "ttl": None}
            if await connection.fetch_one(SessionStore.ADD_SESSION, fresh) is None:
                return None
        if not messages:
            if state is _State.RESTORABLE:
                await connection.fetch(SessionStore.UNDELETE_SESSION, parameters)
            return []
        if state is _State.ABSENT:
            return await connection.fetch(self._adding(parameters).create, parameters) or None
        return await connection.fetch(self._adding(parameters).add_locked, parameters) or None

    # SKIP LOCKED: a locked session would keep the other callers waiting, and their sessions
    # locked. ORDER BY: sessions are locked in the order of their ids.
    APPEND = StatementTemplate(
        "memory.append",
        f"""
        WITH input AS (
            SELECT *, row_number() OVER (PARTITION BY session_id ORDER BY position) AS number
            FROM unnest(
                %(session_ids)b::text[], %(message_ids)b::text[], %(roles)b::text[],
                %(contents)b::text[], %(token_counts)s::integer[], %(metadatas)b::text[]::jsonb[],
                %(created_ats)s::timestamptz[]
            ) WITH ORDINALITY AS input
                (session_id, message_id, role, content, token_count, metadata, created_at, position)
        ), locked AS (
            SELECT session_id FROM sessions s
            WHERE session_id = ANY(%(session_ids)b::text[]) AND {LIVE_SESSION}
                AND {ACCESSIBLE_SESSION}
            ORDER BY session_id
            FOR NO KEY UPDATE SKIP LOCKED
        ), session AS (
            UPDATE sessions s
            SET last_sequence = s.last_sequence + added.count,
                updated_at = greatest(s.updated_at, statement_timestamp())
            FROM (SELECT session_id, count(*) FROM input GROUP BY session_id) added
            WHERE s.session_id = added.session_id
                AND s.session_id IN (SELECT session_id FROM locked)
            RETURNING s.session_id, s.last_sequence - added.count AS before, s.updated_at
        ), written AS (
            INSERT INTO messages
                (session_id, sequence, message_id, role, content, words, token_count, metadata,
                created_at, updated_at)
            SELECT session_id, before + number, message_id, role, content,
                search_words(content, %(language)s::regconfig),
                token_count, metadata, coalesce(created_at, updated_at), updated_at
            FROM session JOIN input USING (session_id)
            RETURNING session_id, message_id, sequence, created_at
        ){{enqueue}}
        SELECT session_id, true, message_id, sequence, created_at FROM written
        ORDER BY session_id, sequence
    """,
    )

    async def _append_all(
        self, access: Access, appends: Sequence[tuple[str, Sequence[NewMessage]]]
    ) -> list[AddedMemory | None]:
        """Append to live sessions in one statement; return None for each append to run alone.

        These are appends to sessions that are not live, outside the access scope, or locked, the
        second append to a session, and an append that shares the batch with no other.
        """
        alone: list[AddedMemory | None] = [None] * len(appends)
        shared = dict(reversed(appends))
        if len(shared) == 1:
            return alone
        messages = [message for messages in shared.values() for message in messages]
        parameters = {
            "session_ids": [session_id for session_id in shared for _ in shared[session_id]],
            "access_user_id": access.user_id,
            "language": self._language,
            **_columns(messages),
        }
        try:
            async with self._pool.connection(access.principal) as connection:
                rows = await connection.fetch(self._append, parameters)
        except Error:  # caused by one append, which gets it again when it runs alone
            return alone
        self._queue.notify()
        added: dict[str, AddedMemory | None] = {
            session_id: _added(list(of_session), created=False)
            for session_id, of_session in groupby(rows, key=itemgetter(0))
        }
        return [added.pop(session_id, None) for session_id, _ in appends]

    # The newest message is always joined: no row means no session, and a row of NULLs an empty one.
    # `fits` tells whether a message is within the budget.
    GET_MEMORY = StatementTemplate(
        "memory.get",
        f"""
        SELECT s.session_id,
            CASE WHEN coalesce(number, 1) = 1 THEN s.metadata::text END,
            fits, has_more, {{columns}}
        FROM sessions s LEFT JOIN LATERAL (
            SELECT *,
                %(max_tokens)s = 0
                    OR sum(quarters) OVER newest <= 4 * %(max_tokens)s::bigint AS fits,
                lead(true, 1, false) OVER newest AS has_more,
                row_number() OVER newest AS number,
                sum(size) OVER newest AS total_size
            FROM (
                SELECT *, {{size}} AS size, {QUARTER_TOKENS} AS quarters
                FROM messages
                WHERE session_id = s.session_id AND deleted_at IS NULL
                ORDER BY sequence DESC
                LIMIT %(last_n)s + 1
            ) candidates
            WINDOW newest AS (ORDER BY sequence DESC)
        ) m ON number = 1 OR fits AND number <= %(last_n)s AND total_size <= {MAX_PAGE_BYTES}
        WHERE s.session_id = ANY(%(session_ids)s) AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
        ORDER BY s.session_id, m.sequence DESC
    """,
    )

    async def get_memory(
        self,
        access: Access,
        session_id: str,
        window: Window,
        *,
        with_session: bool = False,
        with_total: bool = False,
    ) -> MemoryRow:
        """Return the window of a session.

        Reads of the newest messages with the same limits that start together share a statement.

        Args:
            access: The caller's access scope.
            session_id: The session's id.
            window: The limits of the window.
            with_session: Whether to return the session too.
            with_total: Whether to count the messages that pass the filter.

        Raises:
            NotFound: There is no such live session.
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: A statement with a path exceeded its timeout.
        """
        if not window.is_suffix or with_session or with_total:
            return await self._get_window(
                access, session_id, window, with_session=with_session, with_total=with_total
            )
        read = _Read(session_id, window.last_n, window.max_tokens, window.without_payload)
        rows = await self._reads.submit(access, read)
        if not rows:
            raise NotFound("Session", session_id)
        metadata, newest_fits = rows[0][:2]
        has_more = newest_fits is False or bool(rows[-1][2])
        fitting = [MessageRow._make(row[3:]) for row in rows if row[1]]
        if len(metadata) > _SMALL_METADATA and not _surely_fit(fitting, metadata):
            return await self._get_window(
                access, session_id, window, with_session=False, with_total=False
            )
        newest = starting_at(fitting, window.start_roles)
        has_more = has_more or len(newest) < len(fitting)
        return MemoryRow(Page(list(reversed(newest)), has_more), metadata)

    # The candidates of `choose_messages`, newest first. The messages of common roles are frequent,
    # so reading back from the window soon finds them; the index `messages_rare_roles` has the
    # others.
    CHOOSE_WINDOW = StatementTemplate(
        "memory.choose_window",
        f"""
        WITH session AS (
            SELECT session_id FROM sessions s
            WHERE session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
        ), newest AS (
            SELECT m.* FROM session s CROSS JOIN LATERAL ({{newest}} LIMIT %(last_n)s + 1) m
        ), pinned AS (
            SELECT m.* FROM session s
                CROSS JOIN unnest(%(pinned_roles)s::text[]) AS pinned (role)
                CROSS JOIN LATERAL (
                    ({{rare}} LIMIT {MAX_PINNED}) UNION ALL ({{common}} LIMIT {MAX_PINNED})
                ) m
        )
        SELECT sequence, role, {QUARTER_TOKENS}, {{size}}
        FROM (SELECT * FROM newest UNION ALL SELECT * FROM pinned) candidates
        ORDER BY sequence DESC
    """,
    )

    GET_CHOSEN = StatementTemplate(
        "memory.get_chosen",
        """
        SELECT {columns} FROM unnest(%(sequences)s::bigint[]) AS chosen (sequence)
            JOIN messages m ON m.session_id = %(session_id)s AND m.sequence = chosen.sequence
        ORDER BY m.sequence
    """,
    )

    COUNT_PASSING = StatementTemplate(
        "memory.count_passing",
        f"""
        SELECT count(*) FROM sessions s CROSS JOIN LATERAL ({{passing}}) m
        WHERE s.session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
    """,
    )

    async def _get_window(
        self,
        access: Access,
        session_id: str,
        window: Window,
        *,
        with_session: bool,
        with_total: bool,
    ) -> MemoryRow:
        """Choose the messages of a window and read them, in one snapshot."""
        passing = passing_messages(access, window.filter, direction="DESC")
        parts = MessageParts.of(without_payload=window.without_payload)
        choose = self.CHOOSE_WINDOW.fill(
            is_prepared=False,
            newest=passing,
            rare=_pinned(access, window.filter, f"NOT IN {COMMON_ROLES}"),
            common=_pinned(access, window.filter, f"IN {COMMON_ROLES}"),
            size=parts.size,
        )
        get = self.GET_CHOSEN.fill(columns=parts.columns)
        count = self.COUNT_PASSING.fill(is_prepared=False, passing=passing)
        parameters: dict[str, Any] = {
            "session_id": session_id,
            "access_user_id": access.user_id,
            "last_n": window.last_n,
            "max_tokens": window.max_tokens,
            "pinned_roles": list(window.pinned_roles),
            "after": 0,
            "before": 2**63 - 1,
            **window.filter.given,
        }

        async def read(connection: Connection) -> MemoryRow:
            total_count = None
            session = await get_session(connection, access, session_id)
            async with checked_path(connection, window.filter.metadata, access):
                rows = await connection.fetch(choose, parameters)
                if with_total:
                    counted = await connection.fetch_one(count, parameters)
                    total_count = int(counted[0]) if counted else 0
            candidates = [Candidate._make(row) for row in rows]
            room = await self._room_next_to(session.metadata)
            chosen = choose_messages(candidates, window, max_bytes=room)
            chosen_parameters = {"session_id": session_id, "sequences": chosen}
            messages = await connection.fetch(get, chosen_parameters) if chosen else []
            return MemoryRow(
                Page([MessageRow._make(row) for row in messages], len(chosen) < len(rows)),
                session.metadata,
                session if with_session else None,
                total_count,
            )

        return await self._reader.read(read, access.principal, snapshot=self._set_filter_timeout)

    async def _room_next_to(self, metadata: str) -> int:
        """Return the size of the messages that fit a response with a session's metadata."""
        if len(metadata) <= _SMALL_METADATA:
            return MAX_PAGE_BYTES
        size = await offload(len(metadata), self._metadata_size, metadata)
        return min(MAX_PAGE_BYTES, _MAX_WINDOW_BYTES - size)

    async def _get_all(self, access: Access, reads: Sequence[_Read]) -> list[list[Row] | None]:
        """Return the rows of each read; None if there is no such live session."""
        return await self._reader.read(
            lambda connection: self._get_over(connection, access, reads), access.principal
        )

    async def _get_over(
        self, connection: Connection, access: Access, reads: Sequence[_Read]
    ) -> list[list[Row] | None]:
        found: dict[_Read, list[Row]] = {}
        for limits in {read[1:] for read in reads}:
            last_n, max_tokens, without_payload = limits
            parameters = {
                "session_ids": list({read[0] for read in reads if read[1:] == limits}),
                "last_n": last_n,
                "max_tokens": max_tokens,
                "access_user_id": access.user_id,
            }
            parts = MessageParts.of(without_payload=without_payload)
            get = self.GET_MEMORY.fill(columns=parts.columns, size=parts.size)
            rows = await connection.fetch(get, parameters)
            for session_id, of_session in groupby(rows, key=itemgetter(0)):
                found[_Read(session_id, *limits)] = [row[1:] for row in of_session]
        return [found.get(read) for read in reads]


def _pinned(access: Access, filter: MessageFilter, among: str) -> str:
    """Return the SQL that selects messages of a pinned role among these, older than `newest`."""
    condition = f"""
        sequence < (SELECT min(sequence) FROM newest)
        AND role = pinned.role AND role {among} AND pinned.role {among}
    """
    return passing_messages(access, filter, direction="DESC", condition=condition)


def _surely_fit(messages: Sequence[MessageRow], metadata: str) -> bool:
    """Return whether messages fit a response with a session's metadata, by a rough bound."""
    characters = len(metadata) + sum(
        [len(message.content) + len(message.metadata) + 512 for message in messages]
    )
    payloads = sum([len(message.payload or b"") for message in messages])
    return 4 * characters + payloads <= MAX_PAGE_BYTES


def _is_short(messages: Sequence[NewMessage]) -> bool:
    """Return whether an append is short enough to share a statement without delaying others."""
    return (
        sum([len(message.content) for message in messages]) <= _MAX_BATCHED_APPEND_CHARACTERS
        and sum([len(message.metadata) for message in messages]) <= _MAX_BATCHED_APPEND_CHARACTERS
        and not _have_payloads(messages)
    )


def _have_payloads(messages: Sequence[NewMessage]) -> bool:
    return any(message.payload or message.payload_type for message in messages)


def _check(
    session: _LockedSession, owner: str | None, session_id: str, options: AddOptions
) -> None:
    """Check that the state of a session is what the options ask for."""
    if options.session_must_exist and session.state is not _State.LIVE:
        raise NotFound("Session", session_id)
    options.expected.check(revision=session.revision, last_sequence=session.last_sequence)
    if options.change_user is not None and owner is None:
        raise InvalidRequest(
            FieldViolation("user_metadata", "must not be given: the session has no user")
        )


def _columns(messages: Sequence[NewMessage]) -> dict[str, list[Any]]:
    """Return the messages as the arrays that the statements unnest; `payloads` may be empty."""
    columns = zip(*messages, strict=True) if messages else [()] * len(NewMessage._fields)
    ids, roles, contents, token_counts, metadatas, created_ats, payloads, payload_types = columns
    given_payloads = list(payloads) if _have_payloads(messages) else []
    return {
        "given_ids": list(ids),
        "message_ids": [message_id or uuid7() for message_id in ids],
        "roles": list(roles),
        "contents": list(contents),
        "token_counts": list(token_counts),
        "metadatas": list(metadatas),
        "created_ats": list(created_ats),
        "payloads": given_payloads,
        "payload_types": list(payload_types),
    }


def _added(rows: list[Row], *, created: bool, undeleted: bool = False) -> AddedMemory:
    changes = created or undeleted or any(row[1] for row in rows)
    messages = [AddedMessage._make(row[2:]) for row in rows]
    return AddedMemory(created, undeleted, messages, changes=changes)
