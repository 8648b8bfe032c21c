"""The embedding queue as the worker sees it: batches of messages to embed, and the backfill.

Writes append messages to `embedding_queue` in their own transactions. The backfill appends
all others that lack a vector of the model: it scans the messages in the order of their keys,
and keeps its position in the columns `walk_*` of `embedding_models`.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from pgvector import HalfVector

from palaver_server.database.backlog import MAX_COUNTED_ROWS, Backlog
from palaver_server.database.connection import Connection, Row
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.embedding.models import VectorSpace
from palaver_server.store.liveness import LIVE_MESSAGE
from palaver_server.store.messages import COUNT_MESSAGES


class QueuedMessage(NamedTuple):
    """A message to embed: the beginning of its text, and a hash of the whole text."""

    session_id: str
    sequence: int
    text_hash: int
    text: str


class BackfillProgress(NamedTuple):
    """The progress of the backfill.

    Attributes:
        scanned: Messages that the backfill has passed.
        is_complete: Whether it has passed all messages.
        last_id: The newest entry of the queue.
        queued: Entries in the queue, up to the requested one.
    """

    scanned: int
    is_complete: bool
    last_id: int
    queued: int


class EmbeddingBacklog:
    """The messages to embed for one model. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.

    Args:
        max_characters: How much of a message's text is embedded.
    """

    def __init__(self, pool: Pool, space: VectorSpace, *, max_characters: int) -> None:
        self._pool = pool
        self._space = space
        self._max_characters = max_characters

    # SKIP LOCKED passes over entries that another server is embedding. If that server dies, its
    # locks end with its connection, and the entries are taken again. The text is NULL where
    # there is nothing to embed: the message is deleted, purged or blank, or has its vector.
    TAKE = StatementTemplate(
        "embedding.take_batch",
        f"""
        WITH taken AS (
            SELECT id, session_id, sequence FROM embedding_queue
            ORDER BY id
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        ), waiting AS (
            SELECT array_agg(id) AS ids, session_id, sequence FROM taken
            GROUP BY session_id, sequence
        )
        SELECT ids, session_id, sequence, {{text_hash}}, CASE
            WHEN content ~ '\\S' AND text_hash IS DISTINCT FROM {{text_hash}}
            THEN left({{text}}, %(max_characters)s::integer) END
        FROM waiting
            LEFT JOIN (SELECT * FROM messages m WHERE {LIVE_MESSAGE}) m
                USING (session_id, sequence)
            LEFT JOIN (SELECT * FROM embeddings WHERE model = {{model}}) e
                USING (session_id, sequence)
    """,
    )

    @asynccontextmanager
    async def batch(self, limit: int) -> AsyncIterator["EmbeddingBatch"]:
        """Lock the oldest entries of the queue for the block.

        Entries that the block does not finish stay in the queue.
        """
        parameters = {"limit": limit, "max_characters": self._max_characters}
        async with self._pool.connection() as connection, connection.in_transaction():
            take = self.TAKE.fill(**self._space.names)
            rows = await connection.fetch(take, parameters)
            yield EmbeddingBatch(connection, self._space, rows)

    BACKLOG = Statement(
        "embedding.measure",
        """
        SELECT count(*), extract(epoch FROM statement_timestamp() - min(queued_at))::float8
        FROM (SELECT queued_at FROM embedding_queue ORDER BY id LIMIT %(limit)s) waiting
    """,
    )

    async def measure(self) -> Backlog:
        """Count the entries of the queue, up to 100,000."""
        async with self._pool.connection() as connection:
            counted = await connection.fetch_one(self.BACKLOG, {"limit": MAX_COUNTED_ROWS})
            rows, age = counted or (0, None)
            return Backlog(rows, max(age or 0, 0))  # negative: the clock was set back

    GET_BACKFILL_POSITION = StatementTemplate(
        "embedding.get_backfill",
        """
        SELECT walk_session_id, walk_sequence FROM embedding_models
        WHERE id = {model} AND walk_session_id IS NOT NULL
        FOR UPDATE SKIP LOCKED
    """,
    )

    BACKFILL = StatementTemplate(
        "embedding.backfill",
        """
        WITH page AS (
            SELECT session_id, sequence, {text_hash} AS hash FROM messages m
            WHERE (session_id, sequence) > (%(session_id)s, %(sequence)s)
                AND deleted_at IS NULL
            ORDER BY session_id, sequence
            LIMIT %(limit)s
        ), queued AS (
            INSERT INTO embedding_queue (session_id, sequence)
            SELECT session_id, sequence
            FROM page LEFT JOIN (SELECT * FROM embeddings WHERE model = {model}) e
                USING (session_id, sequence)
            WHERE text_hash IS DISTINCT FROM hash
        )
        SELECT session_id, sequence, count(*) OVER () FROM page
        ORDER BY session_id DESC, sequence DESC
        LIMIT 1
    """,
    )

    MOVE_BACKFILL = StatementTemplate(
        "embedding.move_backfill",
        """
        UPDATE embedding_models
        SET walk_session_id = %(session_id)s, walk_sequence = %(sequence)s,
            walk_count = walk_count + %(count)s
        WHERE id = {model}
    """,
    )

    async def backfill(self, limit: int) -> bool:
        """Queue those of the next `limit` messages that have no vector of their text.

        Returns:
            False if the backfill is complete, or another server is running a step of it.
        """
        names = self._space.names
        async with self._pool.connection() as connection, connection.in_transaction():
            position = await connection.fetch_one(self.GET_BACKFILL_POSITION.fill(**names))
            if position is None:
                return False
            parameters = {"session_id": position[0], "sequence": position[1], "limit": limit}
            page = await connection.fetch_one(self.BACKFILL.fill(**names), parameters)
            last = page or (None, 0, 0)  # a NULL position: the backfill is complete
            moved = dict(zip(("session_id", "sequence", "count"), last, strict=True))
            await connection.fetch(self.MOVE_BACKFILL.fill(**names), moved)
            return True

    # A running backfill is not restarted: it scans the rest, and its own start was complete.
    START_BACKFILL = StatementTemplate(
        "embedding.start_backfill",
        """
        UPDATE embedding_models SET walk_session_id = '', walk_sequence = 0, walk_count = 0
        WHERE id = {model} AND walk_session_id IS NULL
    """,
    )

    async def start_backfill(self) -> int:
        """Start a backfill unless one is running; return how many messages there are."""
        async with (
            self._pool.connection() as connection,
            connection.in_transaction(has_timeout=False),
        ):
            await connection.fetch(self.START_BACKFILL.fill(**self._space.names))
            row = await connection.fetch_one(COUNT_MESSAGES)
            return int(row[0]) if row else 0

    BACKFILL_PROGRESS = StatementTemplate(
        "embedding.backfill_progress",
        """
        SELECT walk_count, walk_session_id IS NULL,
            (SELECT coalesce(max(id), 0) FROM embedding_queue),
            (SELECT count(*) FROM embedding_queue WHERE id <= %(last_id)s)
        FROM embedding_models WHERE id = {model}
    """,
    )

    async def backfill_progress(self, last_id: int | None) -> BackfillProgress:
        """Return how far the backfill is.

        Args:
            last_id: The last entry of the queue to count; None counts all.
        """
        parameters = {"last_id": 2**63 - 1 if last_id is None else last_id}
        async with self._pool.connection() as connection:
            statement = self.BACKFILL_PROGRESS.fill(**self._space.names)
            row = await connection.fetch_one(statement, parameters)
            return BackfillProgress._make(row or (0, True, 0, 0))

    GET_OTHER_MODELS = StatementTemplate(
        "embedding.get_other_models", "SELECT id FROM embedding_models WHERE id <> {model}"
    )
    DELETE_VECTORS = StatementTemplate(
        "embedding.delete_vectors", "DELETE FROM embeddings WHERE model <> {model}"
    )
    DROP_INDEX = StatementTemplate(
        "embedding.drop_index", "DROP INDEX IF EXISTS embeddings_nearest_{model}"
    )
    DELETE_MODEL = StatementTemplate(
        "embedding.delete_model", "DELETE FROM embedding_models WHERE id = {model}"
    )

    async def delete_other_models(self) -> None:
        """Delete all other models with their vectors."""
        async with (
            self._pool.connection() as connection,
            connection.in_transaction(has_timeout=False),
        ):
            names = self._space.names
            rows = await connection.fetch(self.GET_OTHER_MODELS.fill(**names))
            others = [model_id for (model_id,) in rows]
            if not others:
                return
            await connection.run(self.DELETE_VECTORS.fill(is_prepared=False, **names))
            for model_id in others:
                await connection.run(self.DROP_INDEX.fill(is_prepared=False, model=model_id))
                await connection.run(self.DELETE_MODEL.fill(is_prepared=False, model=model_id))


class EmbeddingBatch:
    """Locked entries of the queue, and the messages to embed for them."""

    def __init__(
        self,
        connection: Connection,
        space: VectorSpace,
        rows: Sequence[Row],
    ) -> None:
        self._connection = connection
        self._space = space
        self._entry_ids = {row[1:3]: row[0] for row in rows}
        self.messages = [QueuedMessage._make(row[1:]) for row in rows if row[4] is not None]

    def __len__(self) -> int:
        return len(self._entry_ids)

    # FOR SHARE keeps each message unchanged until its vector is committed. Otherwise the vector
    # of an old text could replace the one of a new text that another server stored meanwhile.
    # SKIP LOCKED passes over messages that are being written: their entries stay in the queue.
    STORE = StatementTemplate(
        "embedding.store",
        """
        WITH input AS (
            SELECT * FROM unnest(
                %(session_ids)s::text[], %(sequences)s::bigint[], %(text_hashes)s::bigint[],
                %(vectors)s::{halfvec}[]
            ) AS input (session_id, sequence, text_hash, embedding)
        ), unchanged AS (
            SELECT session_id, sequence, text_hash, embedding
            FROM input JOIN messages m USING (session_id, sequence)
            WHERE m.deleted_at IS NULL AND {text_hash} = text_hash
            ORDER BY session_id, sequence
            FOR SHARE OF m SKIP LOCKED
        )
        INSERT INTO embeddings (session_id, sequence, model, text_hash, embedding)
        SELECT session_id, sequence, {model}, text_hash, embedding FROM unchanged
        ON CONFLICT (session_id, sequence, model) DO UPDATE SET
            text_hash = excluded.text_hash,
            embedding = excluded.embedding
        RETURNING session_id, sequence
    """,
    )

    DELETE_ENTRIES = Statement(
        "embedding.delete_entries", "DELETE FROM embedding_queue WHERE id = ANY(%(ids)s)"
    )

    # To the end of the queue, so that the next batch starts with other messages.
    DEFER_ENTRIES = Statement(
        "embedding.defer_entries",
        """
        WITH deferred AS (
            DELETE FROM embedding_queue WHERE id = ANY(%(ids)s)
            RETURNING id, session_id, sequence, queued_at
        )
        INSERT INTO embedding_queue (session_id, sequence, queued_at)
        SELECT session_id, sequence, queued_at FROM deferred ORDER BY id
    """,
    )

    async def finish(self, vectors: Sequence[Sequence[float] | None]) -> int:
        """Store the vectors of the messages, and delete their entries from the queue.

        A message that was changed since the batch was taken, or is being changed, stays in
        the queue.

        Args:
            vectors: One for each of `messages`; None if the message cannot have one.

        Returns:
            How many entries were deleted, counting those of one message as one.
        """
        pairs = zip(self.messages, vectors, strict=True)
        embedded = [(message, vector) for message, vector in pairs if vector is not None]
        stored = await self._store(embedded) if embedded else set()
        missed = {message[:2] for message, _ in embedded} - stored
        await self._run_for_entries(self.DELETE_ENTRIES, self._entry_ids.keys() - missed)
        await self._run_for_entries(self.DEFER_ENTRIES, missed)
        return len(self._entry_ids) - len(missed)

    async def _store(
        self, embedded: Sequence[tuple[QueuedMessage, Sequence[float]]]
    ) -> set[tuple[str, int]]:
        parameters = {
            "session_ids": [message.session_id for message, _ in embedded],
            "sequences": [message.sequence for message, _ in embedded],
            "text_hashes": [message.text_hash for message, _ in embedded],
            "vectors": [HalfVector(list(vector)) for _, vector in embedded],
        }
        self._space.register(self._connection)
        statement = self.STORE.fill(**self._space.names)
        rows = await self._connection.fetch(statement, parameters)
        return {(session_id, sequence) for session_id, sequence in rows}

    async def _run_for_entries(self, statement: Statement, keys: set[tuple[str, int]]) -> None:
        ids = [entry_id for key in keys for entry_id in self._entry_ids[key]]
        if ids:
            await self._connection.fetch(statement, {"ids": ids})
