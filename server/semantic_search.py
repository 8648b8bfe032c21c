"""Semantic search: finds messages by what they mean."""

from server.embedders.embedder import MAX_CHARACTERS, Embedder
from server.errors import (
    FieldViolation,
    InvalidRequest,
    SemanticSearchUnavailable,
    TextsRefused,
)
from server.store.embeddings import EmbeddingStore, Neighbour
from server.store.message_filter import EVERY_MESSAGE, EVERYTHING, MessageFilter, Scope


class SemanticSearch:
    """Embeds what is asked for, and finds the messages nearest to it."""

    available = True

    def __init__(self, embedder: Embedder, store: EmbeddingStore) -> None:
        self._embedder = embedder
        self._store = store

    async def nearest(
        self,
        text: str,
        *,
        limit: int,
        scope: Scope = EVERYTHING,
        filter: MessageFilter = EVERY_MESSAGE,
        with_vectors: bool = False,
    ) -> list[Neighbour]:
        """Gets the live messages that mean most nearly what a text does, the nearest first.

        The text must not be blank. The rest is as in `EmbeddingStore.nearest`.

        Raises:
            EmbedderUnavailable: The text cannot be embedded for now.
            InvalidRequest: The embedder refuses this text.
            SemanticSearchUnavailable: The server has no embedder, or the database no pgvector.
        """
        try:
            (vector,) = await self._embedder.embed([text[:MAX_CHARACTERS]])
        except TextsRefused as error:
            raise InvalidRequest(FieldViolation("text", f"cannot be embedded: {error}")) from error
        return await self._store.nearest(
            vector, limit=limit, scope=scope, filter=filter, with_vectors=with_vectors
        )


class NoSemanticSearch:
    """Stands for semantic search where there is none.

    Args:
        reason: What is missing, and what to do.
    """

    available = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def nearest(
        self,
        text: str,  # noqa: ARG002
        *,
        limit: int,  # noqa: ARG002
        scope: Scope = EVERYTHING,  # noqa: ARG002
        filter: MessageFilter = EVERY_MESSAGE,  # noqa: ARG002
        with_vectors: bool = False,  # noqa: ARG002
    ) -> list[Neighbour]:
        """Finds nothing.

        Raises:
            SemanticSearchUnavailable: Always.
        """
        raise SemanticSearchUnavailable(self._reason)
