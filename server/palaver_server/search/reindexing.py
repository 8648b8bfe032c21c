"""Reindexing: computes the keyword index and the vectors again, after a change of settings."""

import asyncio
from collections.abc import AsyncIterator, Mapping

from palaver_server.embedding.worker import EmbeddingWorker, NoEmbeddingWorker, ReindexProgress
from palaver_server.search.keyword_index import KeywordIndex

_PAGE_SIZE = 100  # messages
_REPORT_INTERVAL_SECONDS = 0.5


class Reindexer:
    """The reindexing of the keyword index, and then of the vectors."""

    def __init__(
        self, keyword_index: KeywordIndex, embedding: EmbeddingWorker | NoEmbeddingWorker
    ) -> None:
        self._keyword_index = keyword_index
        self._embedding = embedding

    async def reindex(self) -> AsyncIterator[Mapping[str, ReindexProgress]]:
        """Compute the words of every message, then the missing vectors.

        Yields the progress by kind, twice a second. If the caller stops early, the rest of the
        words is not computed; vectors, once begun, are.
        """
        words = ReindexProgress(0, 0)
        async for words in self._reindex_words():
            yield {"words": words}
        async for vectors in self._embedding.reindex():
            yield {"words": words, "vectors": vectors}

    async def _reindex_words(self) -> AsyncIterator[ReindexProgress]:
        progress = ReindexProgress(0, await self._keyword_index.count_messages())
        yield progress
        clock = asyncio.get_running_loop().time
        reported_at = clock()
        page = await self._keyword_index.reindex(limit=_PAGE_SIZE)
        while page:
            progress = progress._replace(done=progress.done + page.messages)
            if clock() - reported_at >= _REPORT_INTERVAL_SECONDS:
                yield progress
                reported_at = clock()
            page = await self._keyword_index.reindex(limit=_PAGE_SIZE, after=page.last)
        await self._keyword_index.set_language()
        yield progress
