"""Semantic search: finds messages by meaning."""

import asyncio
import logging
from collections.abc import Sequence
from typing import NoReturn

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.error_translation import loggable_reason
from palaver_server.embedding.circuit_breaker import OPEN_SECONDS, CircuitBreaker
from palaver_server.embedding.embedders.embedder import MAX_CHARACTERS, Embedder
from palaver_server.embedding.models import VectorSpace
from palaver_server.embedding.vector_store import Similarities, VectorStore
from palaver_server.errors import (
    EmbedderUnavailable,
    FieldViolation,
    InvalidRequest,
    SemanticSearchUnavailable,
    TextsRefused,
)
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import MessageKey

_LOGGER = logging.getLogger(__name__)


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
    """The embedding of search texts.

    Args:
        timeout: Maximum seconds that a search waits for the embedder.

    Attributes:
        fallbacks: How many times `try_embed` returned None.
    """

    available = True

    def __init__(self, embedder: Embedder, space: VectorSpace, *, timeout: float = 1) -> None:
        self._embedder = embedder
        self._space = space
        self._timeout = timeout
        self._breaker = CircuitBreaker()
        self._last_error = ""
        self._attempts: set[asyncio.Task[Sequence[float]]] = set()
        self.fallbacks = 0

    async def embed(self, text: str) -> EmbeddedText:
        """Embed a text, which must not be blank.

        Raises:
            EmbedderUnavailable: The embedder failed, exceeded the timeout, or has failed so often
                that it is not asked.
            InvalidRequest: The embedder refuses the text.
        """
        if not self._breaker.admit():
            raise EmbedderUnavailable(
                f"{self._last_error}; the next attempt follows within {OPEN_SECONDS:g} s"
            )
        # A task, which continues if the call is cancelled: otherwise calls with deadlines below the
        # timeout would never record a failure, and all of them would wait for a dead embedder.
        attempt = asyncio.create_task(self._embed(text[:MAX_CHARACTERS]))
        self._attempts.add(attempt)
        attempt.add_done_callback(self._record)
        await asyncio.wait([attempt])
        try:
            return EmbeddedText(self._space, attempt.result())
        except TextsRefused as error:
            raise InvalidRequest(FieldViolation("text", f"cannot be embedded: {error}")) from error

    async def try_embed(self, text: str) -> EmbeddedText | None:
        """Embed a text as `embed` does, but return None instead of raising an error."""
        try:
            return await self.embed(text)
        except (EmbedderUnavailable, InvalidRequest):
            self.fallbacks += 1
            return None

    async def _embed(self, text: str) -> Sequence[float]:
        try:
            async with asyncio.timeout(self._timeout):
                (vector,) = await self._embedder.embed([text])
        except TimeoutError as error:
            raise EmbedderUnavailable(
                f"the embedder did not answer within {self._timeout:g} s"
            ) from error
        return vector

    def _record(self, attempt: asyncio.Task[Sequence[float]]) -> None:
        self._attempts.discard(attempt)
        if attempt.cancelled():
            return
        error = attempt.exception()
        was_open = self._breaker.is_open
        if error is None or isinstance(error, TextsRefused):
            self._breaker.record_success()
            if was_open:
                _LOGGER.info("the embedder answers again; searches use it")
        elif isinstance(error, Exception):
            self._last_error = loggable_reason(error)
            self._breaker.record_failure()
            if self._breaker.is_open and not was_open:
                _LOGGER.warning(
                    "the embedder keeps failing (%s); HYBRID searches are answered by keyword,"
                    " SEMANTIC searches fail; the embedder is tried again every %g s",
                    self._last_error,
                    OPEN_SECONDS,
                )


class NoSemanticSearch:
    """The stand-in for `SemanticSearch` in a server without it.

    Args:
        reason: What the server lacks, and what to do about it.
    """

    available = False
    fallbacks = 0

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def embed(self, text: str) -> NoReturn:  # noqa: ARG002
        """Refuse to embed a text.

        Raises:
            SemanticSearchUnavailable: Always.
        """
        raise SemanticSearchUnavailable(self._reason)

    async def try_embed(self, text: str) -> NoReturn:
        """Refuse to embed a text, as `embed` does."""
        await self.embed(text)
