"""The embedding worker: gives messages their vectors after they were written."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from palaver_server.database.backlog import Backlog
from palaver_server.database.error_translation import loggable_reason
from palaver_server.embedding.backlog import EmbeddingBacklog
from palaver_server.embedding.embedders.embedder import Embedder
from palaver_server.errors import TextsRefused
from palaver_server.store.embedding_queue import EmbeddingQueue

_LOGGER = logging.getLogger(__name__)

# Writes of this process wake the worker. Polling finds what other servers left in the queue.
_POLL_INTERVAL_SECONDS = 10.0

# Between a write and the batch that embeds it, so that the messages of many calls share a batch.
_BATCH_DELAY_SECONDS = 0.1

_MIN_RETRY_DELAY_SECONDS = 1.0
_MAX_RETRY_DELAY_SECONDS = 60.0

_BACKFILL_BATCH_SIZE = 500
_REPORT_INTERVAL_SECONDS = 0.5


class ReindexProgress(NamedTuple):
    """The number of messages done, and an estimate of their total number."""

    done: int
    estimated: int


class EmbeddingWorker:
    """The worker that embeds queued messages, and backfills those older than the model."""

    def __init__(
        self, embedder: Embedder, backlog: EmbeddingBacklog, queue: EmbeddingQueue
    ) -> None:
        self._embedder = embedder
        self._backlog = backlog
        self._queue = queue

    async def run(self) -> None:
        """Embed until cancelled; after a failure, retry with exponential backoff."""
        delay = 0.0
        while True:
            try:
                while await self._embed_batch() or await self._backlog.backfill(
                    _BACKFILL_BATCH_SIZE
                ):
                    delay = 0.0
            except Exception as error:  # noqa: BLE001 - no error may leave the queue unattended
                delay = await self._sleep_before_retry(error, delay)
            else:
                await self._queue.wait(_POLL_INTERVAL_SECONDS)
                await asyncio.sleep(_BATCH_DELAY_SECONDS)

    async def backlog(self) -> dict[str, Backlog]:
        """Count the messages in the queue, up to 100,000."""
        return {"messages": await self._backlog.measure()}

    async def _sleep_before_retry(self, error: Exception, last_delay: float) -> float:
        delay = min(max(2 * last_delay, _MIN_RETRY_DELAY_SECONDS), _MAX_RETRY_DELAY_SECONDS)
        _LOGGER.warning(
            "embedding failed (%s); retrying within %.0f s", loggable_reason(error), delay
        )
        # Jitter, so that servers that failed together do not retry together.
        await asyncio.sleep(random.uniform(delay / 2, delay))  # noqa: S311
        return delay

    async def _embed_batch(self) -> int:
        """Embed the messages that waited longest; return how many queue entries are done."""
        async with self._backlog.batch(self._embedder.batch_size) as batch:
            vectors = await self._embed([message.text for message in batch.messages])
            return await batch.finish(vectors) if len(batch) else 0

    async def _embed(self, texts: Sequence[str]) -> list[Sequence[float] | None]:
        """Return a vector for each text, None for one that the embedder refuses.

        A refused batch is halved until the refused texts are alone, so that all others get
        their vectors.
        """
        if not texts:
            return []
        try:
            return list(await self._embedder.embed(texts))
        except TextsRefused as error:
            if len(texts) == 1:
                _LOGGER.warning(
                    "the embedder refused a message (%s); it stays without a vector, and only"
                    " keyword search finds it",
                    error,
                )
                return [None]
        half = len(texts) // 2
        return await self._embed(texts[:half]) + await self._embed(texts[half:])

    async def reindex(self) -> AsyncIterator[ReindexProgress]:
        """Backfill the vectors of all messages, then delete those of other models.

        Yields the progress twice a second. If the caller stops early, the backfill continues.
        """
        estimated = await self._backlog.start_backfill()
        self._queue.notify()
        last_id = None
        while True:
            backfill = await self._backlog.backfill_progress(last_id)
            if backfill.is_complete and last_id is None:
                last_id = backfill.last_id
            elif backfill.is_complete and not backfill.queued:
                break
            yield ReindexProgress(max(0, backfill.scanned - backfill.queued), estimated)
            await asyncio.sleep(_REPORT_INTERVAL_SECONDS)
        await self._backlog.delete_other_models()
        yield ReindexProgress(backfill.scanned, estimated)


class NoEmbeddingWorker:
    """The stand-in for `EmbeddingWorker` in a server without vectors."""

    async def run(self) -> None:
        """Do nothing."""

    async def backlog(self) -> dict[str, Backlog]:
        """Return no backlog."""
        return {}

    async def reindex(self) -> AsyncIterator[ReindexProgress]:
        """Yield no progress."""
        return
        yield  # makes this an async generator
