"""Semantic search: finds messages by meaning."""

from collections.abc import Sequence

from palaver_server.auth.access import Access
from palaver_server.embedding.embedders.embedder import MAX_CHARACTERS, Embedder
from palaver_server.embedding.vector_store import EmbeddingStore, Similarities
from palaver_server.errors import (
    FieldViolation,
    InvalidRequest,
    SemanticSearchUnavailable,
    TextsRefused,
)
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import Key


class SemanticSearch:
    """Embeds what is asked for, and finds the messages nearest to it."""

    available = True

    def __init__(self, embedder: Embedder, store: EmbeddingStore) -> None:
        self._embedder = embedder
        self._store = store

    async def nearest(  # noqa: PLR0913 - most by name
        self,
        access: Access,
        text: str,
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
        also: Sequence[Key] = (),
    ) -> Similarities:
        """Gets the live messages that mean most nearly what a text does, and some others.

        The text must not be blank. The rest is as in `EmbeddingStore.nearest`.

        Args:
            access: The caller's access scope.
            text: What they are compared with.
            limit: How many of the nearest.
            scope: Where to look.
            filter: What narrows it.
            also: Messages that are given whether they are among the nearest or not.

        Raises:
            EmbedderUnavailable: The text cannot be embedded for now.
            InvalidRequest: The embedder refuses this text.
            SemanticSearchUnavailable: The server has no embedder, or the database no pgvector.
        """
        try:
            (vector,) = await self._embedder.embed([text[:MAX_CHARACTERS]])
        except TextsRefused as error:
            raise InvalidRequest(FieldViolation("text", f"cannot be embedded: {error}")) from error
        nearest = await self._store.nearest(access, vector, limit=limit, scope=scope, filter=filter)
        others = [key for key in also if key not in nearest]
        if others:
            nearest |= await self._store.get_similarities(access, vector, others)
        return nearest


class NoSemanticSearch:
    """Stands for semantic search where there is none.

    Args:
        reason: What is missing, and what to do.
    """

    available = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def nearest(  # noqa: PLR0913 - most by name
        self,
        access: Access,  # noqa: ARG002
        text: str,  # noqa: ARG002
        *,
        limit: int,  # noqa: ARG002
        scope: Scope = ALL_MESSAGES,  # noqa: ARG002
        filter: MessageFilter = EVERY_MESSAGE,  # noqa: ARG002
        also: Sequence[Key] = (),  # noqa: ARG002
    ) -> Similarities:
        """Finds nothing.

        Raises:
            SemanticSearchUnavailable: Always.
        """
        raise SemanticSearchUnavailable(self._reason)
