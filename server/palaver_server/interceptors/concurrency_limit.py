"""The maximum numbers of running and waiting calls; further calls are refused immediately."""

import asyncio
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from palaver_server.errors import TooManyCalls
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall


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

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wrap a method with one response."""
        slots = self._unary_slots

        async def limited(request: bytes, context: Context) -> bytes:
            if not slots.try_acquire():
                await slots.wait()
            try:
                return await call(request, context)
            finally:
                slots.release()

        return limited

    def stream(self, _method: str, call: StreamCall) -> StreamCall:
        """Wrap a method with a stream of responses."""
        slots = self._stream_slots

        async def limited(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            if not slots.try_acquire():
                await slots.wait()
            # Release the slot when gRPC has sent the last chunk, not when the generator ends:
            # the limit bounds the memory of chunks that wait for slow clients.
            release: Any = lambda _context: slots.release()  # noqa: E731 - the stubs mistype it
            context.add_done_callback(release)
            async with aclosing(call(request, context)) as responses:
                async for response in responses:
                    yield response

        return limited


class _Slots:
    """A semaphore whose queue of waiters has a maximum length."""

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

    async def wait(self) -> None:
        """Wait for a slot, and take it.

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

    def release(self) -> None:
        """Hand a slot to the call that has waited longest, or free it."""
        for turn in self._waiting:
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._free += 1
