"""The queue of messages that wait for a vector, as the stores that write messages see it."""

import asyncio


class EmbeddingQueue:
    """An outbox: statements that write messages append to it in their own transaction.

    Args:
        is_used: Whether a worker embeds the messages in the queue. If not, nothing is appended.

    Attributes:
        notify: Wakes up the worker of this process: messages may be waiting. Call it after the
            commit. The worker finds messages of other processes, and those left by a crash, when
            it polls.
    """

    def __init__(self, *, is_used: bool) -> None:
        self._filled = asyncio.Event()
        self.notify = self._filled.set
        self.enqueue_written = self.ENQUEUE_WRITTEN if is_used else ""
        self.enqueue_one = self.ENQUEUE_ONE if is_used else ""

    # CTEs to append to the statements that write messages, and to UPDATE_MESSAGE.
    ENQUEUE_WRITTEN = """, queued AS (
            INSERT INTO embedding_queue (session_id, sequence)
            SELECT session_id, sequence FROM written
        )"""
    ENQUEUE_ONE = """, queued AS (
            INSERT INTO embedding_queue (session_id, sequence)
            VALUES (%(session_id)s, %(sequence)s)
        )"""

    async def wait(self, seconds: float) -> None:
        """Wait for `notify`, for at most so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._filled.wait()
        except TimeoutError:
            return
        self._filled.clear()


NO_QUEUE = EmbeddingQueue(is_used=False)
