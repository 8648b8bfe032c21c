"""Embedding: gives messages their vectors, behind the writes."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from palaver_server.database.backlog import Backlog
from palaver_server.embedding.backlog import EmbeddingBacklog
from palaver_server.embedding.embedders.embedder import Embedder
from palaver_server.errors import (
    DatabaseUnavailable,
    EmbedderUnavailable,
    NoConnectionInTime,
    TextsRefused,
)
from palaver_server.store.embedding_queue import EmbeddingQueue

_LOGGER = logging.getLogger(__name__)

# What this process writes it hears of; what other servers left behind it comes to see.
_SECONDS_BETWEEN_LOOKS = 10.0

# Messages of many calls share a batch.
_SECONDS_TO_GATHER = 0.1

_LEAST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

_MESSAGES_A_STEP = 500
_SECONDS_BETWEEN_REPORTS = 0.5


class ReindexProgress(NamedTuple):
    """How many messages are known to have their vectors, and how many there are."""

    done: int
    estimated: int


class Embedding:
    """Embeds what waits in the queue, and what was written before there was this model."""

    def __init__(
        self, embedder: Embedder, backlog: EmbeddingBacklog, queue: EmbeddingQueue
    ) -> None:
        self._embedder = embedder
        self._backlog = backlog
        self._queue = queue

    async def run(self) -> None:
        """Embeds for ever; while that fails, tries again after pauses that grow."""
        pause = 0.0
        while True:
            try:
                while await self._embed_batch() or await self._backlog.walk(_MESSAGES_A_STEP):
                    pause = 0.0
            except (EmbedderUnavailable, DatabaseUnavailable, NoConnectionInTime) as error:
                pause = await self._pause_after(str(error), pause)
            except Exception as error:  # noqa: BLE001 - what waits must not wait for ever
                pause = await self._pause_after(type(error).__name__, pause)
            else:
                await self._queue.wait(_SECONDS_BETWEEN_LOOKS)
                await asyncio.sleep(_SECONDS_TO_GATHER)

    async def backlog(self) -> dict[str, Backlog]:
        """Counts the messages that wait for a vector, up to 100,000."""
        return {"messages": await self._backlog.measure()}

    async def _pause_after(self, reason: str, pause: float) -> float:
        pause = min(max(2 * pause, _LEAST_PAUSE), _LONGEST_PAUSE)
        _LOGGER.warning("embedding pauses for up to %.0f seconds: %s", pause, reason)
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - so that servers differ
        return pause

    async def _embed_batch(self) -> int:
        """Embeds the messages that have waited longest; gives how many entries it settled."""
        async with self._backlog.batch(self._embedder.batch_size) as batch:
            vectors = await self._vectors([message.text for message in batch.messages])
            return await batch.finish(vectors) if len(batch) else 0

    async def _vectors(self, texts: Sequence[str]) -> list[Sequence[float] | None]:
        """Embeds texts; those that the embedder refuses get None, and hold up no others."""
        if not texts:
            return []
        try:
            return list(await self._embedder.embed(texts))
        except TextsRefused as error:
            if len(texts) == 1:
                _LOGGER.warning("a message stays without a vector: %s", error)
                return [None]
        half = len(texts) // 2
        return await self._vectors(texts[:half]) + await self._vectors(texts[half:])

    async def reindex(self) -> AsyncIterator[ReindexProgress]:
        """Sees to it that every message has its vector, and removes those of other models.

        Reports twice a second. What it began goes on if nobody waits for it any more.
        """
        estimated = await self._backlog.start_walk()
        self._queue.notify()
        last_id = None
        while True:
            walk = await self._backlog.measure_walk(last_id)
            if walk.is_over and last_id is None:
                last_id = walk.last_id
            elif walk.is_over and not walk.waiting:
                break
            yield ReindexProgress(max(0, walk.walked - walk.waiting), estimated)
            await asyncio.sleep(_SECONDS_BETWEEN_REPORTS)
        await self._backlog.forget_other_models()
        yield ReindexProgress(walk.walked, estimated)


class NoEmbedding:
    """Stands for embedding where there is none."""

    async def run(self) -> None:
        """Has nothing to do."""

    async def backlog(self) -> dict[str, Backlog]:
        """Has nothing that waits."""
        return {}

    async def reindex(self) -> AsyncIterator[ReindexProgress]:
        """Has nothing to report."""
        return
        yield  # makes it the generator that it stands for
