"""Embeddings: the SQL that finds the messages nearest to a vector."""

from collections.abc import Sequence
from typing import NamedTuple

from server.principal import bound_user
from server.store.embedding_models import VectorSpace
from server.store.message_filter import EVERY_MESSAGE, EVERYTHING, FILTERS, MessageFilter, Scope
from server.store.messages import COLUMNS, MessageRow
from server.store.ownership import OWNED
from server.store.pool import Pool


class Neighbour(NamedTuple):
    """A live message, and how near it is.

    `similarity` is 1 for the same direction, 0 for nothing in common, down to -1. `vector`
    is there if it was asked for.
    """

    session_id: str
    similarity: float
    vector: list[float] | None
    message: MessageRow


class EmbeddingStore:
    """Finds messages by the vectors of one model. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool, space: VectorSpace) -> None:
        self._pool = pool
        self._space = space

    # Deleted is never found: a message counts if it is live in this very statement's
    # snapshot. And a vector counts if it was made from the content that the message has
    # there. That is asked of the few rows that are left: contents may be large.
    NEAREST = f"""
        WITH nearest AS MATERIALIZED ({{nearest}})
        SELECT session_id, -distance,
            CASE WHEN %(with_vectors)s THEN embedding::real[] END, {COLUMNS}
        FROM nearest JOIN messages m USING (session_id, sequence)
        WHERE content_hash = hashtextextended(m.content, 0)
        ORDER BY distance
    """

    # By the index, which goes on until so many pass.
    AMONG_ALL = """
        SELECT session_id, sequence, content_hash, embedding,
            {indexed} {distance} %(vector)s::{halfvec} AS distance
        FROM embeddings e JOIN messages m USING (session_id, sequence)
        WHERE e.model = {model} AND m.deleted_at IS NULL {filters}
        ORDER BY {indexed} {distance} %(vector)s::{halfvec}
        LIMIT %(limit)s
    """

    # All of them, one by one: the distance is not the one that the index knows.
    IN_SESSION = """
        SELECT session_id, sequence, content_hash, embedding,
            embedding {distance} %(vector)s::{halfvec} AS distance
        FROM sessions s JOIN messages m USING (session_id)
            JOIN embeddings e USING (session_id, sequence)
        WHERE s.session_id = %(session_id)s AND s.deleted_at IS NULL AND {owned}
            AND e.model = {model} AND m.deleted_at IS NULL {filters}
        ORDER BY distance
        LIMIT %(limit)s
    """

    OF_USER = """
        SELECT session_id, sequence, content_hash, embedding,
            embedding {distance} %(vector)s::{halfvec} AS distance
        FROM sessions s JOIN messages m USING (session_id)
            JOIN embeddings e USING (session_id, sequence)
        WHERE s.user_id = %(user_id)s AND s.deleted_at IS NULL AND {owned}
            AND e.model = {model} AND m.deleted_at IS NULL {filters}
        ORDER BY distance
        LIMIT %(limit)s
    """

    # A filter may pass few of the nearest: the scan then goes on, for a while.
    SET_UP_SCAN = """
        SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
            set_config('hnsw.ef_search', '400', true)
    """

    async def nearest(
        self,
        vector: Sequence[float],
        *,
        limit: int,
        scope: Scope = EVERYTHING,
        filter: MessageFilter = EVERY_MESSAGE,
        with_vectors: bool = False,
    ) -> list[Neighbour]:
        """Gets the live messages whose vectors are nearest, the nearest first.

        In the scope of a session or a user these are exactly the nearest; among all, nearly
        all of them. A message that was written just now may have no vector yet. To a caller
        who is bound to a user, that user's messages are all there are.
        """
        user_id = bound_user()
        if scope == EVERYTHING:
            scope = Scope(user_id=user_id)
        parameters = {
            **filter.given,
            **scope._asdict(),
            "bound_user": user_id,
            "vector": str(list(vector)),
            "limit": limit,
            "with_vectors": with_vectors,
        }
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(self.SET_UP_SCAN)
            # Planned anew for each scope and filter: one plan for all would be none for most.
            cursor = await connection.execute(
                self._statement(scope, filter), parameters, prepare=False
            )
            return [
                Neighbour._make((*row[:3], MessageRow._make(row[3:])))
                for row in await cursor.fetchall()
            ]

    def _statement(self, scope: Scope, filter: MessageFilter) -> str:
        nearest = self.AMONG_ALL
        if scope.session_id is not None:
            nearest = self.IN_SESSION
        elif scope.user_id is not None:
            nearest = self.OF_USER
        filters = " ".join(FILTERS[name] for name in filter.given)
        names = {**self._space.names, "owned": OWNED, "filters": filters}
        return self.NEAREST.format(nearest=nearest.format(**names))
