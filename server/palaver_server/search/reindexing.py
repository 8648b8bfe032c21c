"""Reindexing: computes the keyword index and the vectors again, after a change of settings."""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from palaver_server.embedding.worker import EmbeddingWorker, NoEmbeddingWorker, ReindexProgress
from palaver_server.search.keyword_index import KeywordIndex
from palaver_server.shared_run import SharedRun

_PAGE_SIZE = 100  # messages


class Reindexer:
    """The reindexing of the keyword index, and then of the vectors."""

    def __init__(
        self, keyword_index: KeywordIndex, embedding: EmbeddingWorker | NoEmbeddingWorker
    ) -> None:
        self._keyword_index = keyword_index
        self._embedding = embedding
        self._run: SharedRun[Mapping[str, ReindexProgress]] = SharedRun(self._reindex)

    async def reindex(self) -> AsyncIterator[Mapping[str, ReindexProgress]]:
        """Compute the words of every message, then the missing vectors, or join a call that does.

        Yields the progress by kind, twice a second. The work does not wait for callers that do
        not read. If all callers stop early, the rest of the words is not computed; vectors, once
        begun, are.
        """
        async with aclosing(self._run.follow()) as reports:
            async for progress in reports:
                yield progress

    async def _reindex(self) -> AsyncGenerator[Mapping[str, ReindexProgress], None]:
        words = ReindexProgress(0, 0)
        async for words in self._reindex_words():
            yield {"words": words}
        async for vectors in self._embedding.reindex():
            yield {"words": words, "vectors": vectors}

    async def _reindex_words(self) -> AsyncIterator[ReindexProgress]:
        progress = ReindexProgress(0, await self._keyword_index.count_messages())
        yield progress
        page = await self._keyword_index.reindex(limit=_PAGE_SIZE)
        while page:
            progress = progress._replace(done=progress.done + page.messages)
            yield progress
            page = await self._keyword_index.reindex(limit=_PAGE_SIZE, after=page.last)
        await self._keyword_index.set_language()
        yield progress
