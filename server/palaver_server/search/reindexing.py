"""Reindexing: what search needs of messages is made anew, after a change of settings."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from palaver_server.embedding.worker import EmbeddingWorker, NoEmbeddingWorker, ReindexProgress
from palaver_server.search.keyword_index import WordIndex

_MESSAGES_A_STEP = 100
_SECONDS_BETWEEN_REPORTS = 0.5


class Reindexer:
    """Makes words anew, and vectors."""

    def __init__(self, words: WordIndex, embedding: EmbeddingWorker | NoEmbeddingWorker) -> None:
        self._words = words
        self._embedding = embedding

    async def reindex(self) -> AsyncIterator[Mapping[str, ReindexProgress]]:
        """Sees to it that every message has its words, and then its vector.

        Reports twice a second, by kind. If nobody waits for it any more, the words that are
        left stay as they are, and the vectors are made.
        """
        words = ReindexProgress(0, 0)
        async for words in self._reindex_words():
            yield {"words": words}
        async for vectors in self._embedding.reindex():
            yield {"words": words, "vectors": vectors}

    async def _reindex_words(self) -> AsyncIterator[ReindexProgress]:
        progress = ReindexProgress(0, await self._words.count_messages())
        yield progress
        clock = asyncio.get_running_loop().time
        reported_at = clock()
        step = await self._words.reindex(limit=_MESSAGES_A_STEP)
        while step:
            progress = progress._replace(done=progress.done + step.messages)
            if clock() - reported_at >= _SECONDS_BETWEEN_REPORTS:
                yield progress
                reported_at = clock()
            step = await self._words.reindex(limit=_MESSAGES_A_STEP, after=step.last)
        await self._words.set_language()
        yield progress
