"""The queue of messages that wait for a vector, as those who write messages see it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class EmbeddingQueue:
    """What statements that write messages append to, in their own transaction.

    Args:
        is_used: Somebody embeds what is in the queue; if not, it costs nothing.
    """

    def __init__(self, *, is_used: bool) -> None:
        self._filled = asyncio.Event()
        self.enqueue_written = self.ENQUEUE_WRITTEN if is_used else ""
        self.enqueue_one = self.ENQUEUE_ONE if is_used else ""

    # Further CTEs of the statements that write messages, and of UPDATE_MESSAGE.
    ENQUEUE_WRITTEN = """, queued AS (
            INSERT INTO embedding_queue (session_id, sequence)
            SELECT session_id, sequence FROM written
        )"""
    ENQUEUE_ONE = """, queued AS (
            INSERT INTO embedding_queue (session_id, sequence)
            VALUES (%(session_id)s, %(sequence)s)
        )"""

    @asynccontextmanager
    async def filling(self) -> AsyncIterator[None]:
        """Tells the embedder of this process, after the block, that something may wait.

        What other processes write, and what a crash has left, it finds by itself.
        """
        yield
        self._filled.set()

    def notify(self) -> None:
        """Has the embedder of this process look now."""
        self._filled.set()

    async def wait(self, seconds: float) -> None:
        """Waits until something may wait, or for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return
        self._filled.clear()


NO_QUEUE = EmbeddingQueue(is_used=False)
