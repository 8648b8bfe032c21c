"""Semantic search: finds messages by meaning."""

from collections.abc import Sequence
from typing import NoReturn

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.embedding.embedders.embedder import MAX_CHARACTERS, Embedder
from palaver_server.embedding.models import VectorSpace
from palaver_server.embedding.vector_store import Similarities, VectorStore
from palaver_server.errors import (
    FieldViolation,
    InvalidRequest,
    SemanticSearchUnavailable,
    TextsRefused,
)
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import MessageKey


class EmbeddedText:
    """The text of a search as a vector, to find the messages nearest to it."""

    def __init__(self, space: VectorSpace, vector: Sequence[float]) -> None:
        self._space = space
        self._vector = vector

    async def nearest(  # noqa: PLR0913 - most by name
        self,
        access: Access,
        connection: Connection,
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
        also: Sequence[MessageKey] = (),
    ) -> Similarities:
        """Return the similarities of the nearest messages, and of some others.

        Args:
            access: The caller's access scope.
            connection: In a transaction.
            limit: How many of the nearest messages.
            scope: The messages to search.
            filter: Narrows the search.
            also: Messages whose similarities are returned even if they are not the nearest.
        """
        store = VectorStore(connection, self._space)
        nearest = await store.nearest(access, self._vector, limit=limit, scope=scope, filter=filter)
        others = [key for key in also if key not in nearest]
        if others:
            nearest |= await store.get_similarities(access, self._vector, others)
        return nearest


class SemanticSearch:
    """Embeds the texts of searches."""

    available = True

    def __init__(self, embedder: Embedder, space: VectorSpace) -> None:
        self._embedder = embedder
        self._space = space

    async def embed(self, text: str) -> EmbeddedText:
        """Embed a text, which must not be blank.

        Raises:
            EmbedderUnavailable: The text cannot be embedded at the moment.
            InvalidRequest: The embedder refuses the text.
        """
        try:
            (vector,) = await self._embedder.embed([text[:MAX_CHARACTERS]])
        except TextsRefused as error:
            raise InvalidRequest(FieldViolation("text", f"cannot be embedded: {error}")) from error
        return EmbeddedText(self._space, vector)


class NoSemanticSearch:
    """Takes the place of `SemanticSearch` in a server without it.

    Args:
        reason: What the server lacks, and what to do about it.
    """

    available = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def embed(self, text: str) -> NoReturn:  # noqa: ARG002
        """Refuse to embed a text.

        Raises:
            SemanticSearchUnavailable: Always.
        """
        raise SemanticSearchUnavailable(self._reason)
