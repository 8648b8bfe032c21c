"""Batching: requests that start together share a statement."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from palaver_server.call_context import Call, running_call, sharing_calls

KeyT = TypeVar("KeyT", bound=Hashable)
RequestT = TypeVar("RequestT")
ResultT = TypeVar("ResultT")


@dataclass(eq=False, slots=True)
class _InFlight:
    """A task that runs a batch, and the number of callers that wait for it."""

    task: asyncio.Task[None]
    waiting: int


@dataclass(eq=False, slots=True)
class _Pending(Generic[RequestT, ResultT]):
    """A queued request: its input, its result future, and the batch it is in, once that runs."""

    request: RequestT
    result: asyncio.Future[ResultT]
    call: Call | None
    batch: _InFlight | None = None


class Batcher(Generic[KeyT, RequestT, ResultT]):
    """A queue that collects the requests of one event loop iteration and runs them as a batch.

    No request waits for others to arrive: a single one is a batch of one. While requests arrive
    one at a time, `submit` runs each directly, without a task and an extra event loop iteration,
    which together cost as much as the rest of a read. A batch is cancelled once all its callers
    are. Requests with different keys never share a batch.

    Args:
        run: Runs a batch, given its key and its requests, and returns the results in the same
            order. An exception goes to all callers of the batch.
        max_size: Maximum requests per batch; more are split into several.
    """

    def __init__(
        self,
        run: Callable[[KeyT, Sequence[RequestT]], Awaitable[Sequence[ResultT]]],
        *,
        max_size: int,
    ) -> None:
        self._run = run
        self._max_size = max_size
        self._pending: dict[KeyT, list[_Pending[RequestT, ResultT]]] = {}
        # Strong references: the event loop alone would let running tasks be garbage-collected.
        self._running: set[asyncio.Task[None] | None] = set()
        self._claimed_turn: asyncio.Future[None] | None = None  # done when its iteration has ended
        self._last_size = 0

    def claim(self) -> bool:
        """Return whether a request may run by itself, without `submit`.

        It may while requests arrive one at a time: for the first one of an event loop iteration,
        if the last batch had one request and none is pending or running.
        """
        if self._last_size != 1 or self._running or self._pending:
            return False
        if self._claimed_turn is not None and not self._claimed_turn.done():
            return False
        loop = asyncio.get_running_loop()
        self._claimed_turn = turn = loop.create_future()
        loop.call_soon(turn.set_result, None)
        return True

    async def submit(self, key: KeyT, request: RequestT) -> ResultT:
        """Run a request with others of the same key; return its result or raise its error."""
        if self.claim():
            (single,) = await self._run(key, [request])
            return single
        loop = asyncio.get_running_loop()
        queue = self._pending.setdefault(key, [])
        if not queue:
            loop.call_soon(self._start, key)
        result: asyncio.Future[ResultT] = loop.create_future()
        pending = _Pending(request, result, running_call.get(None))
        queue.append(pending)
        try:
            return await result
        except asyncio.CancelledError:
            _leave(pending.batch)
            raise

    def _start(self, key: KeyT) -> None:
        queue = [pending for pending in self._pending.pop(key) if not pending.result.done()]
        self._last_size = len(queue)
        for first in range(0, len(queue), self._max_size):
            batch = queue[first : first + self._max_size]
            task = asyncio.create_task(self._run_batch(key, batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)  # also if it is cancelled unstarted
            in_flight = _InFlight(task, len(batch))
            for pending in batch:
                pending.batch = in_flight

    async def _run_batch(self, key: KeyT, batch: list[_Pending[RequestT, ResultT]]) -> None:
        sharing_calls.set([pending.call for pending in batch if pending.call])
        try:
            results = await self._run(key, [pending.request for pending in batch])
        except Exception as error:  # noqa: BLE001 - passed on to the callers
            for pending in batch:
                if not pending.result.done():
                    pending.result.set_exception(error)
        else:
            for pending, result in zip(batch, results, strict=True):
                if not pending.result.done():  # a cancelled call's is
                    pending.result.set_result(result)
        finally:
            self._running.discard(asyncio.current_task())


def _leave(batch: _InFlight | None) -> None:
    """Stop waiting for a batch; cancel it if no other caller waits for it."""
    if batch is not None:
        batch.waiting -= 1
        if not batch.waiting:
            batch.task.cancel()
