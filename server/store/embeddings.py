"""Embeddings: the SQL that finds the messages nearest to a vector."""

from collections.abc import Sequence

from server.principal import bound_user
from server.store.embedding_models import VectorSpace
from server.store.message_filter import EVERY_MESSAGE, EVERYTHING, MessageFilter, Scope
from server.store.messages import KEYS, Key, key_parameters
from server.store.metadata_path import checked_path
from server.store.ownership import VISIBLE_MESSAGE
from server.store.pool import Pool

# How near messages are, the nearest first: 1 is the same direction, 0 nothing in common,
# -1 the opposite.
Similarities = dict[Key, float]


class EmbeddingStore:
    """Finds messages by the vectors of one model. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool, space: VectorSpace) -> None:
        self._pool = pool
        self._space = space

    # Deleted is never found: a message counts if it is live in this very statement's
    # snapshot. And a vector counts if it was made from the text that the message has
    # there. That is asked of the few rows that are left: contents may be large.
    NEAREST = """
        WITH nearest AS MATERIALIZED ({nearest})
        SELECT session_id, sequence, -distance
        FROM nearest JOIN messages m USING (session_id, sequence)
        WHERE text_hash = {text_hash}
        ORDER BY distance, session_id, sequence DESC
    """

    # By the index, which goes on until so many pass.
    AMONG_ALL = """
        SELECT session_id, sequence, text_hash,
            {indexed} {distance} %(vector)s::{halfvec} AS distance
        FROM embeddings e JOIN messages m USING (session_id, sequence)
        WHERE {condition}
        ORDER BY {indexed} {distance} %(vector)s::{halfvec}
        LIMIT %(limit)s
    """

    # All of them, one by one: the distance is not the one that the index knows.
    IN_SCOPE = """
        SELECT session_id, sequence, text_hash,
            embedding {distance} %(vector)s::{halfvec} AS distance
        FROM {source} JOIN embeddings e USING (session_id, sequence)
        WHERE {condition}
        ORDER BY distance, session_id, sequence DESC
        LIMIT %(limit)s
    """

    # A filter may pass few of the nearest: the scan then goes on, for a while.
    SET_UP_SCAN = """
        SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
            set_config('hnsw.ef_search', '100', true)
    """

    async def nearest(
        self,
        vector: Sequence[float],
        *,
        limit: int,
        scope: Scope = EVERYTHING,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> Similarities:
        """Gets the live messages whose vectors are nearest.

        In the scope of a session or a user these are exactly the nearest; among all, nearly
        all of them. A message that was written just now may have no vector yet.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The search takes longer than it may.
        """
        nearest = self.AMONG_ALL if scope.is_everything else self.IN_SCOPE
        condition = filter.sql(f"e.model = {self._space.model_id} AND {scope.sql.condition}")
        names = {**self._space.names, "source": scope.sql.source, "condition": condition}
        statement = self.NEAREST.format(nearest=nearest.format(**names), **names)
        parameters = {**filter.given, **scope.parameters, "vector": str(list(vector))}
        async with (
            self._pool.searching(everything=scope.is_everything) as connection,
            checked_path(connection, filter.metadata),
        ):
            await connection.fetch(self.SET_UP_SCAN)
            # Planned anew for each scope and filter: one plan for all would be none for most.
            rows = await connection.fetch(statement, {**parameters, "limit": limit}, prepare=False)
            return {Key(*row[:2]): row[2] for row in rows}

    GET_SIMILARITIES = f"""
        SELECT session_id, sequence, -(embedding {{distance}} %(vector)s::{{halfvec}}) AS similarity
        FROM {KEYS} JOIN messages m USING (session_id, sequence)
            JOIN embeddings e USING (session_id, sequence)
        WHERE {VISIBLE_MESSAGE} AND e.model = {{model}} AND text_hash = {{text_hash}}
        ORDER BY similarity DESC
    """

    async def get_similarities(self, vector: Sequence[float], keys: Sequence[Key]) -> Similarities:
        """Tells how near those of the messages are that are live and have their vector."""
        statement = self.GET_SIMILARITIES.format(**self._space.names)
        parameters = {
            "vector": str(list(vector)), "bound_user": bound_user(), **key_parameters(keys)
        }  # fmt: skip
        async with self._pool.connection() as connection:
            rows = await connection.fetch(statement, parameters)
            return {Key(*row[:2]): row[2] for row in rows}
