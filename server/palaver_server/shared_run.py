"""Long work whose progress several callers follow, none of whom can hold it up."""

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

ProgressT = TypeVar("ProgressT")

_REPORT_INTERVAL_SECONDS = 0.5


class SharedRun(Generic[ProgressT]):
    """Work that runs once at a time, for all callers that follow it.

    Args:
        work: Starts the work, which yields its progress.
    """

    def __init__(self, work: Callable[[], AsyncGenerator[ProgressT, None]]) -> None:
        self._work = work
        self._run: _Run[ProgressT] | None = None

    async def follow(self) -> AsyncGenerator[ProgressT, None]:
        """Start the work or join the run in progress, and yield its progress until it ends.

        Yields the newest progress twice a second and at the end; a caller that does not read
        misses reports. The work is cancelled when its last caller leaves.
        """
        run = self._run
        if run is None or run.task.done():
            run = self._run = _Run(self._work())
        run.followers += 1
        try:
            async for progress in run.progress():
                yield progress
        finally:
            run.followers -= 1
            if not run.followers:
                if self._run is run:
                    self._run = None
                await run.cancel()


class _Run(Generic[ProgressT]):
    """The work in a task of its own.

    Attributes:
        task: Runs the work.
        followers: Number of callers.
    """

    def __init__(self, work: AsyncGenerator[ProgressT, None]) -> None:
        self.task = asyncio.create_task(self._advance(work))
        self.task.add_done_callback(_retrieve_error)
        self.followers = 0
        self._newest: ProgressT | None = None
        self._has_begun = asyncio.Event()

    async def _advance(self, work: AsyncGenerator[ProgressT, None]) -> None:
        async with aclosing(work) as reports:
            async for self._newest in reports:
                self._has_begun.set()

    async def cancel(self) -> None:
        """Cancel the work, and wait for its end."""
        self.task.cancel()
        try:
            await asyncio.wait([self.task])
        except CancelledError:
            # If the database is silent, only a second cancellation makes the driver give up.
            self.task.cancel()
            raise

    async def progress(self) -> AsyncIterator[ProgressT]:
        """Yield the newest progress twice a second and at the end; raise the work's error."""
        beginning = asyncio.create_task(self._has_begun.wait())
        try:
            await asyncio.wait([self.task, beginning], return_when=asyncio.FIRST_COMPLETED)
        finally:
            beginning.cancel()
        seen = None
        while True:
            is_done = self.task.done()
            if is_done:
                self.task.result()
            if self._newest is not None and self._newest is not seen:
                seen = self._newest
                yield seen
            if is_done:
                return
            await asyncio.wait([self.task], timeout=_REPORT_INTERVAL_SECONDS)


def _retrieve_error(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a task: asyncio would log it, although the callers get it."""
    if not task.cancelled():
        task.exception()
