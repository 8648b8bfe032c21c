"""Batches: what starts at the same time shares a statement."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from palaver_server.auth.principal import bound_user
from palaver_server.call_context import Call, running_call, sharing_calls

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")


@dataclass(eq=False, slots=True)
class _Shared(Generic[WorkT, ResultT]):
    """Some work of a call, and what is to get the result; what does it, once that has begun."""

    work: WorkT
    result: asyncio.Future[ResultT]
    call: Call | None
    doing: "_Doing | None" = None


@dataclass(eq=False, slots=True)
class _Doing:
    """The task that does some shared work, and how many wait for it."""

    task: asyncio.Task[None]
    waiting: int


class Batch(Generic[WorkT, ResultT]):
    """Gathers the work of one round of the event loop, and has it done at once.

    It waits for nobody: a single caller is a batch of one. While all come singly, it has
    their work done without a turn of the event loop and a task in between, which take a
    caller as long as all the rest of a read. A batch goes on for as long as anybody waits for
    it. Callers who are bound to different users share nothing: their statements find
    different sessions.

    Args:
        run: Does the work; gives the results in the same order. What it raises, all callers get.
        most: How much of it is done at once; what is more makes another batch.
    """

    def __init__(
        self, run: Callable[[Sequence[WorkT]], Awaitable[Sequence[ResultT]]], *, most: int
    ) -> None:
        self._run = run
        self._most = most
        self._gathered: dict[str | None, list[_Shared[WorkT, ResultT]]] = {}
        # A task that nobody refers to might be collected as garbage.
        self._running: set[asyncio.Task[None] | None] = set()
        self._is_single_running = False
        self._last_size = 0

    async def do(self, work: WorkT) -> ResultT:
        """Does some work together with others; returns its result, raises what it raised."""
        if self._last_size == 1 and not (
            self._is_single_running or self._running or self._gathered
        ):
            return await self._do_singly(work)
        loop = asyncio.get_running_loop()
        user = bound_user()
        gathered = self._gathered.setdefault(user, [])
        if not gathered:
            # In the context of this caller, so that to `run` the bound user is the same.
            loop.call_soon(self._start, user)
        result: asyncio.Future[ResultT] = loop.create_future()
        shared = _Shared(work, result, running_call.get(None))
        gathered.append(shared)
        try:
            return await result
        except asyncio.CancelledError:
            _leave(shared.doing)
            raise

    async def _do_singly(self, work: WorkT) -> ResultT:
        self._is_single_running = True
        try:
            (result,) = await self._run([work])
        finally:
            # Not before the next turn: who comes in this one did not come singly.
            asyncio.get_running_loop().call_soon(self._end_single)
        return result

    def _end_single(self) -> None:
        self._is_single_running = False

    def _start(self, user: str | None) -> None:
        gathered = [shared for shared in self._gathered.pop(user) if not shared.result.done()]
        self._last_size = len(gathered)
        for first in range(0, len(gathered), self._most):
            part = gathered[first : first + self._most]
            task = asyncio.create_task(self._finish(part))
            self._running.add(task)
            task.add_done_callback(self._running.discard)  # also if it never begins
            doing = _Doing(task, len(part))
            for shared in part:
                shared.doing = doing

    async def _finish(self, gathered: list[_Shared[WorkT, ResultT]]) -> None:
        sharing_calls.set([shared.call for shared in gathered if shared.call])
        try:
            results = await self._run([shared.work for shared in gathered])
        except Exception as error:  # noqa: BLE001 - it is the callers'
            for shared in gathered:
                if not shared.result.done():
                    shared.result.set_exception(error)
        else:
            for shared, outcome in zip(gathered, results, strict=True):
                if not shared.result.done():  # as those of cancelled calls are
                    shared.result.set_result(outcome)
        finally:
            self._running.discard(asyncio.current_task())


def _leave(doing: _Doing | None) -> None:
    """Cancels work for which nobody waits any more."""
    if doing is not None:
        doing.waiting -= 1
        if not doing.waiting:
            doing.task.cancel()
