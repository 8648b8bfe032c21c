"""The SQL that finds the messages nearest to a vector."""

from collections.abc import Sequence

from pgvector import HalfVector

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.embedding.models import VectorSpace
from palaver_server.store.access_conditions import ACCESSIBLE_MESSAGE
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import KEYS, MessageKey, key_parameters

# The similarities of messages, most similar first: from 1, the same direction, over 0, nothing in
# common, to -1, the opposite direction.
Similarities = dict[MessageKey, float]


class VectorStore:
    """The queries over the vectors of one model.

    Its methods raise psycopg's errors, for the connection's owner to translate.
    """

    def __init__(self, connection: Connection, space: VectorSpace) -> None:
        space.register(connection)
        self._connection = connection
        self._space = space

    # A vector counts only for the text that it was made from. The hash of the text is compared
    # last, when few rows are left: contents may be large.
    NEAREST = StatementTemplate(
        "vectors.nearest",
        """
        WITH nearest AS MATERIALIZED ({nearest})
        SELECT session_id, sequence, -distance
        FROM nearest JOIN messages m USING (session_id, sequence)
        WHERE text_hash = {text_hash}
        ORDER BY distance, session_id, sequence DESC
    """,
    )

    # The order is that of the model's index, whose scan continues until `limit` rows pass.
    AMONG_ALL = """
        SELECT session_id, sequence, text_hash,
            {indexed} {distance} %(vector)s::{halfvec} AS distance
        FROM embeddings e JOIN messages m USING (session_id, sequence)
        WHERE {condition}
        ORDER BY {indexed} {distance} %(vector)s::{halfvec}
        LIMIT %(limit)s
    """

    # Exact: the order is not that of the index, so that all vectors in the scope are compared.
    IN_SCOPE = """
        SELECT session_id, sequence, text_hash,
            embedding {distance} %(vector)s::{halfvec} AS distance
        FROM {source} JOIN embeddings e USING (session_id, sequence)
        WHERE {condition}
        ORDER BY distance, session_id, sequence DESC
        LIMIT %(limit)s
    """

    # Iterative scans: if the filter passes few of the nearest vectors, the scan continues, up to
    # hnsw.max_scan_tuples.
    CONFIGURE_SCAN = Statement(
        "vectors.configure_scan",
        """
        SELECT set_config('hnsw.iterative_scan', 'strict_order', true),
            set_config('hnsw.ef_search', '100', true)
    """,
    )

    async def nearest(
        self,
        access: Access,
        vector: Sequence[float],
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> Similarities:
        """Return the live messages whose vectors are nearest, in a transaction.

        In the scope of a session or a user, the result is exact; among all messages, approximate.
        A message that was just written may have no vector yet.
        """
        accessible = scope.within(access)
        nearest = self.AMONG_ALL if accessible.is_everything else self.IN_SCOPE
        condition = filter.sql(
            access, f"e.model = {self._space.model_id} AND {accessible.sql.condition}"
        )
        names = {**self._space.names, "source": accessible.sql.source, "condition": condition}
        # A generic plan is bad for most scopes and filters.
        statement = self.NEAREST.fill(is_prepared=False, nearest=nearest.format(**names), **names)
        parameters = {**filter.given, **accessible.parameters, **_vector(vector), "limit": limit}
        await self._connection.fetch(self.CONFIGURE_SCAN)
        rows = await self._connection.fetch(statement, parameters)
        return {MessageKey(*row[:2]): row[2] for row in rows}

    GET_SIMILARITIES = StatementTemplate(
        "vectors.get_similarities",
        f"""
        SELECT session_id, sequence, -(embedding {{distance}} %(vector)s::{{halfvec}}) AS similarity
        FROM {KEYS} JOIN messages m USING (session_id, sequence)
            JOIN embeddings e USING (session_id, sequence)
        WHERE {ACCESSIBLE_MESSAGE} AND e.model = {{model}} AND text_hash = {{text_hash}}
        ORDER BY similarity DESC
    """,
    )

    async def get_similarities(
        self, access: Access, vector: Sequence[float], keys: Sequence[MessageKey]
    ) -> Similarities:
        """Return the similarities of those of the messages that are live and have their vector."""
        statement = self.GET_SIMILARITIES.fill(**self._space.names)
        parameters = {
            **_vector(vector), **key_parameters(keys), "access_user_id": access.user_id
        }  # fmt: skip
        rows = await self._connection.fetch(statement, parameters)
        return {MessageKey(*row[:2]): row[2] for row in rows}


def _vector(vector: Sequence[float]) -> dict[str, HalfVector]:
    return {"vector": HalfVector(list(vector))}
