"""The maximum numbers of running and waiting calls; further calls are refused immediately."""

import asyncio
from asyncio import CancelledError
from collections import deque
from collections.abc import Awaitable
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import TooManyCalls
from palaver_server.interceptors.interceptor import CallHooks, Context, StartCall


class ConcurrencyLimit:
    """Limits concurrent calls, and concurrent streams separately.

    Args:
        running: Maximum number of running calls with one response.
        waiting: Maximum number of further calls that wait for a slot, in order of arrival.
        streams: Maximum number of running calls with a stream of responses; none waits.
    """

    def __init__(self, *, running: int, waiting: int, streams: int) -> None:
        self._unary_slots = _Slots(running, max_waiting=waiting)
        self._stream_slots = _Slots(streams, max_waiting=0)

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that takes a slot for a call."""
        return self._start_stream if method.server_streaming else self._start_unary

    def _start_unary(
        self, _request: bytes, _context: Context
    ) -> CallHooks | Awaitable[CallHooks | None]:
        slots = self._unary_slots
        return slots if slots.try_acquire() else slots.wait()

    async def _start_stream(self, _request: bytes, context: Context) -> None:
        slots = self._stream_slots
        if not slots.try_acquire():
            await slots.wait()
        # Release the slot when gRPC has sent the last chunk, not when the handler ends: the
        # limit bounds the memory of chunks that wait for slow clients.
        release: Any = lambda _context: slots.release()  # noqa: E731 - the stubs mistype it
        context.add_done_callback(release)


class _Slots(CallHooks):
    """A semaphore whose queue of waiters has a maximum length. As hooks, it releases a slot."""

    def __init__(self, count: int, *, max_waiting: int) -> None:
        self._free = count
        self._max_waiting = max_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()

    def try_acquire(self) -> bool:
        """Take a slot if one is free; return whether it was."""
        if self._free:
            self._free -= 1
            return True
        return False

    def end(self, error: BaseException | None) -> BaseException | None:
        """Release the slot of a call."""
        self.release()
        return error

    async def wait(self) -> CallHooks:
        """Wait for a slot, take it, and return its hooks.

        Raises:
            TooManyCalls: The queue is full.
        """
        if len(self._waiting) >= self._max_waiting:
            raise TooManyCalls
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # the slot was handed over just before the cancellation
                self.release()
            raise
        return self

    def release(self) -> None:
        """Hand a slot to the call that has waited longest, or free it."""
        for turn in self._waiting:
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._free += 1
