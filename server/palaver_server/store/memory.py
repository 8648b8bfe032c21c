"""Memory: the SQL that adds messages to a session and gets the newest ones back."""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby, product
from operator import itemgetter
from typing import Any, NamedTuple

from psycopg import Error, Rollback

from palaver_server.auth.access import Access
from palaver_server.database.batching import Batcher
from palaver_server.database.connection import Connection, Row
from palaver_server.database.paging import MAX_PAGE_BYTES, Page
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.errors import NotFound, StaleLastSequence
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION
from palaver_server.store.embedding_queue import NO_QUEUE, EmbeddingQueue
from palaver_server.store.ensure_user import hold_user
from palaver_server.store.messages import COLUMNS, LIVE_BY_ID, SIZE, MessageRow
from palaver_server.store.sessions import SessionStore
from palaver_server.store.uuid7 import uuid7

# As much as keeps memory bounded: an answer is up to 4 MiB.
_MOST_READS_AT_ONCE = 16

_MOST_APPENDS_AT_ONCE = 32
_SHORT_APPEND = 16 * 1024  # characters


class NewMessage(NamedTuple):
    """A message to add. Without a `message_id` it is given one; `metadata` is JSON text."""

    message_id: str | None
    role: str
    content: str
    token_count: int
    metadata: str
    created_at: datetime | None


class AddedMessage(NamedTuple):
    """What became of a message."""

    message_id: str
    sequence: int
    created_at: PgTimestamp


class AddedMemory(NamedTuple):
    """What adding memory did; the messages in the order in which they were given."""

    session_created: bool
    session_undeleted: bool
    messages: list[AddedMessage]


class MemoryRow(NamedTuple):
    """A session's newest messages, oldest first, and its metadata as JSON text."""

    messages: Page[MessageRow]
    metadata: str


class MemoryStore:
    """Adds and gets memory. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.

    Args:
        queue: Where messages wait for a vector.
    """

    def __init__(self, pool: Pool, queue: EmbeddingQueue = NO_QUEUE) -> None:
        self._pool = pool
        self._queue = queue
        self._add_memory = {
            flags: self.ADD_MEMORY.fill(
                enqueue=queue.enqueue_written, locked=flags[0], may_create=flags[1]
            )
            for flags in product((False, True), repeat=2)
        }
        self._append_all = self.APPEND.fill(enqueue=queue.enqueue_written)
        self._appends = Batcher(self._append, max_size=_MOST_APPENDS_AT_ONCE)
        self._reads = Batcher(self._get, max_size=_MOST_READS_AT_ONCE)

    # `kept` are the live messages that the request names again: they keep their
    # sequences, and those that it would not change are not written. Everybody else
    # gets the sequences that the session's row hands out under its lock, in order;
    # the row of a deleted message comes back to life under its id.
    #
    # The statement sees the messages as they were when it began, before it waited for
    # the session's row. Where that matters, it must be `locked` beforehand. A session that
    # is not there gives no rows if the statement may not create it. Both flags are part of the
    # statement: as parameters they would have PostgreSQL plan it anew each time, which takes
    # it as long as to run it.
    ADD_MEMORY = StatementTemplate(
        "memory.add",
        f"""
        WITH input AS (
            SELECT * FROM unnest(
                %(message_ids)b::text[], %(roles)b::text[], %(contents)b::text[],
                %(token_counts)s::integer[], %(metadatas)b::text[]::jsonb[],
                %(created_ats)s::timestamptz[]
            ) WITH ORDINALITY AS input
                (message_id, role, content, token_count, metadata, created_at, position)
        ), named AS MATERIALIZED (
            SELECT ids.*, {LIVE_BY_ID} AS m FROM input ids WHERE {{locked}}
        ), kept AS (
            SELECT message_id, (m).sequence, (m).created_at,
                ((m).role, (m).content, (m).token_count, (m).metadata)
                    IS DISTINCT FROM (role, content, token_count, metadata) AS changed
            FROM named WHERE (m).sequence IS NOT NULL
        ), session AS (
            INSERT INTO sessions AS s (session_id, user_id, last_sequence, created_at, updated_at)
            SELECT %(session_id)s, %(user_id)s,
                cardinality(%(message_ids)b::text[]) - (SELECT count(*) FROM kept),
                statement_timestamp(), statement_timestamp()
            WHERE {{may_create}} OR EXISTS (
                SELECT FROM sessions WHERE session_id = %(session_id)s FOR NO KEY UPDATE
            )
            ON CONFLICT (session_id) DO UPDATE SET
                last_sequence = s.last_sequence + excluded.last_sequence,
                updated_at = CASE
                    WHEN excluded.last_sequence > 0 OR (SELECT bool_or(changed) FROM kept)
                    THEN greatest(s.updated_at, excluded.updated_at) ELSE s.updated_at END,
                deleted_at = NULL
            WHERE (s.deleted_at IS NULL OR {{locked}}) AND {ACCESSIBLE_SESSION}
            RETURNING last_sequence, updated_at, xmax = 0 AS created
        ), numbered AS (
            SELECT input.*, session.updated_at, kept.created_at AS kept_created_at,
                coalesce(kept.changed, true) AS to_write,
                coalesce(kept.sequence, session.last_sequence + 1 - count(*)
                    FILTER (WHERE kept.sequence IS NULL) OVER (ORDER BY position DESC)) AS sequence
            FROM session CROSS JOIN input LEFT JOIN kept USING (message_id)
        ), written AS (
            INSERT INTO messages AS m
                (session_id, sequence, message_id, role, content, words, token_count, metadata,
                created_at, updated_at)
            SELECT %(session_id)s, sequence, message_id, role, content, search_words(content),
                token_count, metadata, coalesce(kept_created_at, created_at, updated_at), updated_at
            FROM numbered WHERE to_write
            ON CONFLICT (session_id, message_id) DO UPDATE SET
                sequence = excluded.sequence,
                role = excluded.role,
                content = excluded.content,
                words = excluded.words,
                token_count = excluded.token_count,
                metadata = excluded.metadata,
                created_at = excluded.created_at,
                updated_at = excluded.updated_at,
                deleted_at = NULL
            RETURNING session_id, message_id, sequence, created_at
        ){{enqueue}}
        SELECT session.created, message_id, numbered.sequence,
            coalesce(written.created_at, numbered.kept_created_at)
        FROM session CROSS JOIN numbered LEFT JOIN written USING (message_id)
        ORDER BY position
    """,
    )

    # In any state: what is deleted or forgotten is to be known before it is written to.
    LOCK_SESSION = Statement(
        "memory.lock_session",
        f"""
        SELECT last_sequence, deleted_at, forgotten, {ACCESSIBLE_SESSION} FROM sessions s
        WHERE session_id = %(session_id)s
        FOR NO KEY UPDATE
    """,
    )

    async def add_memory(
        self,
        access: Access,
        session_id: str,
        messages: Sequence[NewMessage],
        *,
        user_id: str | None,
        expected_last_sequence: int | None,
    ) -> AddedMemory:
        """Appends messages, in order and contiguous; upserts those whose id is live.

        Creates the session, for `user_id`, if there is none or it is forgotten; brings it
        back if it is deleted. One statement does it all, but for four cases that must know
        the session before they write: ids that it may hold already, an expected sequence,
        a deleted session, and a new one of a user. They lock it first. Short appends that
        start together share a transaction.

        Raises:
            NotFound: The session is there, but not the caller's; nothing is written.
            StaleLastSequence: The session's is not the expected one; nothing is written.
        """
        has_ids = any(message.message_id is not None for message in messages)
        if not has_ids and expected_last_sequence is None and _is_short(messages):
            shared = await self._appends.submit(access, (session_id, messages))
            if shared is not None:
                return shared
        parameters = {
            "session_id": session_id,
            "user_id": user_id,
            "access_user_id": access.user_id,
            **_columns(messages),
        }
        forgotten = False
        async with self._queue.filling(), self._pool.connection() as connection:
            if not has_ids and expected_last_sequence is None:
                rows = await self._add(connection, parameters, may_create=user_id is None)
                if rows:
                    return _added(rows, created=rows[0][0], undeleted=False)
            while True:
                added = await self._add_locked(
                    connection, parameters, expected_last_sequence, forgotten=forgotten
                )
                if added:
                    return added
                forgotten = not forgotten

    async def _add_locked(
        self,
        connection: Connection,
        parameters: dict[str, Any],
        expected_last_sequence: int | None,
        *,
        forgotten: bool,
    ) -> AddedMemory | None:
        """Adds to a session under its lock.

        A user is held before its session is locked. So it must be known beforehand whether
        the session is `forgotten`, and needs the user of the request. Gives None, and does
        nothing, if it turns out otherwise, or if somebody else creates the session at this
        moment: to be tried again.
        """
        user_id = parameters["user_id"]
        async with connection.transaction() as transaction:
            if user_id is not None and forgotten:
                await hold_user(connection, user_id)
            session = await connection.fetch_one(self.LOCK_SESSION, parameters)
            last_sequence, deleted_at, is_forgotten, is_owned = session or (0, None, False, True)
            if not is_owned:
                raise NotFound("Session", parameters["session_id"])
            if is_forgotten is not forgotten:
                raise Rollback(transaction)
            if expected_last_sequence not in (None, last_sequence):
                raise StaleLastSequence(expected=expected_last_sequence, actual=last_sequence)
            if user_id is not None and session is None:
                await hold_user(connection, user_id)
            if forgotten:
                await connection.fetch(SessionStore.ADD_SESSION, {**parameters, "metadata": "{}"})
            rows = await self._add(connection, parameters, locked=session is not None)
            if session is None and not (rows and rows[0][0]):
                raise Rollback(transaction)
            created = session is None or forgotten
            return _added(rows, created=created, undeleted=deleted_at is not None and not created)
        return None

    async def _add(
        self,
        connection: Connection,
        parameters: dict[str, Any],
        *,
        locked: bool = False,
        may_create: bool = True,
    ) -> list[Row]:
        return await connection.fetch(self._add_memory[locked, may_create], parameters)

    # Of live sessions alone, and only of those that nobody has locked: one that is would
    # keep the others waiting, and their sessions locked meanwhile. In the order of their ids.
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
            WHERE session_id = ANY(%(session_ids)b::text[]) AND deleted_at IS NULL
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
            SELECT session_id, before + number, message_id, role, content, search_words(content),
                token_count, metadata, coalesce(created_at, updated_at), updated_at
            FROM session JOIN input USING (session_id)
            RETURNING session_id, message_id, sequence, created_at
        ){{enqueue}}
        SELECT session_id, message_id, sequence, created_at FROM written
        ORDER BY session_id, sequence
    """,
    )

    async def _append(
        self, access: Access, appends: Sequence[tuple[str, Sequence[NewMessage]]]
    ) -> list[AddedMemory | None]:
        """Appends to live sessions, in one transaction; None where it has to be done alone.

        That is where there is nobody to share with, where the session is not live, not
        the callers', or locked, and in the second append to one session.
        """
        alone: list[AddedMemory | None] = [None] * len(appends)
        shared = dict(reversed(appends))
        if len(shared) == 1:
            return alone
        messages = [message for messages in shared.values() for message in messages]
        session_ids = [session_id for session_id in shared for _ in shared[session_id]]
        parameters = {
            "session_ids": session_ids,
            "access_user_id": access.user_id,
            **_columns(messages),
        }
        try:
            async with self._queue.filling(), self._pool.connection() as connection:
                rows = await connection.fetch(self._append_all, parameters)
        except Error:  # of one of them, which is to get it alone
            return alone
        added: dict[str, AddedMemory | None] = {
            session_id: _added(list(of_session), created=False, undeleted=False)
            for session_id, of_session in groupby(rows, key=itemgetter(0))
        }
        return [added.pop(session_id, None) for session_id, _ in appends]

    # A message of unknown token count is taken as a quarter of its characters; the sum
    # is in quarters, so that fractions count. The newest message is always joined, so
    # that no row means no session, and NULLs an empty one; `fits` says if it counts.
    GET_MEMORY = Statement(
        "memory.get",
        f"""
        SELECT s.session_id,
            CASE WHEN coalesce(number, 1) = 1 THEN s.metadata::text END,
            fits, has_more, {COLUMNS}
        FROM sessions s LEFT JOIN LATERAL (
            SELECT *,
                %(max_tokens)s = 0
                    OR sum(quarters) OVER newest <= 4 * %(max_tokens)s::bigint AS fits,
                lead(true, 1, false) OVER newest AS has_more,
                row_number() OVER newest AS number,
                sum(size) OVER newest AS total_size
            FROM (
                SELECT *, {SIZE} AS size,
                    CASE token_count WHEN 0 THEN char_length(content)
                        ELSE 4 * token_count::bigint END AS quarters
                FROM messages
                WHERE session_id = s.session_id AND deleted_at IS NULL
                ORDER BY sequence DESC
                LIMIT %(last_n)s + 1
            ) candidates
            WINDOW newest AS (ORDER BY sequence DESC)
        ) m ON number = 1 OR fits AND number <= %(last_n)s AND total_size <= {MAX_PAGE_BYTES}
        WHERE s.session_id = ANY(%(session_ids)s) AND s.deleted_at IS NULL AND {ACCESSIBLE_SESSION}
        ORDER BY s.session_id, m.sequence DESC
    """,
    )

    async def get_memory(
        self, access: Access, session_id: str, *, last_n: int, max_tokens: int
    ) -> MemoryRow:
        """Gets the newest `last_n` messages that fit `max_tokens` together (0: no budget).

        Reads that start together and ask for as much share a statement.

        Raises:
            NotFound: There is no such live session.
        """
        rows = await self._reads.submit(access, (session_id, last_n, max_tokens))
        if not rows:
            raise NotFound("Session", session_id)
        metadata, newest_fits = rows[0][:2]
        page = Page.of(MessageRow, [row[2:] for row in reversed(rows) if row[1]])
        has_more = newest_fits is False or bool(rows[-1][2])
        return MemoryRow(Page(page.rows, has_more), metadata)

    async def _get(
        self, access: Access, reads: Sequence[tuple[str, int, int]]
    ) -> list[list[Row] | None]:
        """Gets the rows of each read; None where there is no such live session."""
        found: dict[tuple[str, int, int], list[Row]] = {}
        async with self._pool.connection() as connection:
            for last_n, max_tokens in {read[1:] for read in reads}:
                parameters = {
                    "session_ids": list(
                        {read[0] for read in reads if read[1:] == (last_n, max_tokens)}
                    ),
                    "last_n": last_n,
                    "max_tokens": max_tokens,
                    "access_user_id": access.user_id,
                }
                rows = await connection.fetch(self.GET_MEMORY, parameters)
                for session_id, of_session in groupby(rows, key=itemgetter(0)):
                    found[session_id, last_n, max_tokens] = [row[1:] for row in of_session]
        return [found.get(read) for read in reads]


def _is_short(messages: Sequence[NewMessage]) -> bool:
    """Tells whether an append can share a transaction without keeping the others waiting."""
    return sum(len(message.content) for message in messages) <= _SHORT_APPEND


def _columns(messages: Sequence[NewMessage]) -> dict[str, list[Any]]:
    """Turns messages into the arrays that ADD_MEMORY unnests."""
    ids, roles, contents, token_counts, metadatas, created_ats = zip(*messages, strict=True)
    return {
        "message_ids": [message_id or uuid7() for message_id in ids],
        "roles": list(roles),
        "contents": list(contents),
        "token_counts": list(token_counts),
        "metadatas": list(metadatas),
        "created_ats": list(created_ats),
    }


def _added(rows: list[Row], *, created: bool, undeleted: bool) -> AddedMemory:
    return AddedMemory(created, undeleted, [AddedMessage._make(row[1:]) for row in rows])
