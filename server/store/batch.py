"""Batches: what starts at the same time shares a statement."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

from server.principal import bound_user

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


class Batch(Generic[WorkT, ResultT]):
    """Gathers the work of one round of the event loop, and has it done at once.

    It waits for nobody: a single caller is a batch of one. It goes on for as long as anybody
    waits for it. Callers who are bound to different users share nothing: their statements
    find different sessions.

    Args:
        run: Does the work; gives the results in the same order. What it raises, all callers get.
        most: How much of it is done at once; what is more makes another batch.
    """

    def __init__(
        self, run: Callable[[Sequence[WorkT]], Awaitable[Sequence[ResultT]]], *, most: int
    ) -> None:
        self._run = run
        self._most = most
        self._gathered: dict[str | None, list[tuple[WorkT, asyncio.Future[ResultT]]]] = {}
        self._running: set[asyncio.Task[None]] = set()  # or they might be collected as garbage

    async def do(self, work: WorkT) -> ResultT:
        """Does some work together with others; returns its result, raises what it raised."""
        loop = asyncio.get_running_loop()
        user = bound_user()
        gathered = self._gathered.setdefault(user, [])
        if not gathered:
            # In the context of this caller, so that to `run` the bound user is the same.
            loop.call_soon(self._start, user)
        result: asyncio.Future[ResultT] = loop.create_future()
        gathered.append((work, result))
        return await result

    def _start(self, user: str | None) -> None:
        gathered = self._gathered.pop(user)
        for first in range(0, len(gathered), self._most):
            part = gathered[first : first + self._most]
            task = asyncio.create_task(self._finish(part))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            _cancel_with(task, [result for _, result in part])

    async def _finish(self, gathered: list[tuple[WorkT, asyncio.Future[ResultT]]]) -> None:
        try:
            results = await self._run([work for work, _ in gathered])
        except Exception as error:  # noqa: BLE001 - it is the callers'
            for _, result in gathered:
                if not result.done():
                    result.set_exception(error)
        else:
            for (_, future), outcome in zip(gathered, results, strict=True):
                if not future.done():  # as those of cancelled calls are
                    future.set_result(outcome)


def _cancel_with(task: asyncio.Task[None], results: Sequence[asyncio.Future[Any]]) -> None:
    """Cancels a task once nobody waits for any of its results."""

    def cancel_if_alone(result: asyncio.Future[Any]) -> None:
        if result.cancelled() and all(result.cancelled() for result in results):
            task.cancel()

    for result in results:
        result.add_done_callback(cancel_if_alone)
