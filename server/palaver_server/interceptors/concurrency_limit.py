"""Bounds how many calls run and wait at a time, so that more of them slow down nobody."""

import asyncio
from asyncio import CancelledError
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from palaver_server.errors import TooManyCalls
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall


class ConcurrencyLimit:
    """Lets so many calls run at a time, and as many streams; refuses the others at once.

    Args:
        running: Calls with one response that run at a time.
        waiting: Those that wait for their turn beside, first come, first served.
        streams: Calls with a stream of responses that run at a time; none waits.
    """

    def __init__(self, *, running: int, waiting: int, streams: int) -> None:
        self._calls = _Turns(running, waiting)
        self._streams = _Turns(streams, 0)

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""
        turns = self._calls

        async def limited(request: bytes, context: Context) -> bytes:
            if not turns.take():
                await turns.wait()
            try:
                return await call(request, context)
            finally:
                turns.give_back()

        return limited

    def stream(self, _method: str, call: StreamCall) -> StreamCall:
        """Wraps a method with a stream of responses."""
        turns = self._streams

        async def limited(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            if not turns.take():
                await turns.wait()
            # Not when the stream is at its end, but when its last chunk has left: the
            # chunks that nobody reads are what is bounded here.
            give_back: Any = lambda _context: turns.give_back()  # noqa: E731 - mistyped there
            context.add_done_callback(give_back)
            async with aclosing(call(request, context)) as responses:
                async for response in responses:
                    yield response

        return limited


class _Turns:
    """So many turns at a time, and a queue of a bounded length for them."""

    def __init__(self, count: int, most_waiting: int) -> None:
        self._free = count
        self._most_waiting = most_waiting
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self) -> bool:
        """Takes a turn, if one is free."""
        if self._free:
            self._free -= 1
            return True
        return False

    async def wait(self) -> None:
        """Waits for a turn, and takes it.

        Raises:
            TooManyCalls: There is no room to wait.
        """
        if len(self._waiting) >= self._most_waiting:
            raise TooManyCalls
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except CancelledError:
            if turn.cancelled():
                self._waiting.remove(turn)
            else:  # it came at the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """Gives a turn to who has waited longest, or back."""
        for turn in self._waiting:
            if not turn.done():
                self._waiting.remove(turn)
                turn.set_result(None)
                return
        self._free += 1
