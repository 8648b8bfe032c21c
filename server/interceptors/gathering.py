"""Lets calls through in groups while there are many callers.

Calls that start together share statements (`server/store/batch.py`) and finish together,
which saves the event loop most of its wake-ups. A few callers must not wait for that:

- Calls are held for as long as it takes to be as many as in the last full window, but
  never for longer than a window.
- The window that brings only a few calls ends the gathering: calls pass at once.
- Whether they have become many, a single window tells, after 64 calls. As long as they are
  few, it is opened half as often each time, down to once in 1,024 calls.
- So that more callers are noticed too, every 16th group waits for the whole window.
"""

import asyncio

from server.interceptors.chain import Context, StreamCall, UnaryCall

_WINDOW = 0.006  # seconds
_FEW = 6
_GROUPS_BETWEEN_WINDOWS = 15
_CALLS_BETWEEN_WINDOWS = range(64, 1025)


class Gathering:
    """Holds calls with one response until there is a group of them."""

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._enough = 0  # so many make a group; 0: calls pass at once
        self._groups_left = 0  # that need not wait for the whole window
        self._calls_between_windows = _CALLS_BETWEEN_WINDOWS.start
        self._calls_left = self._calls_between_windows  # until the next window
        self._window: asyncio.TimerHandle | None = None

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""

        async def gathered(request: bytes, context: Context) -> bytes:
            if self._enough or self._window:
                await self._turn()
            elif self._calls_left:
                self._calls_left -= 1
            else:
                await self._turn()
            return await call(request, context)

        return gathered

    def stream(self, _method: str, call: StreamCall) -> StreamCall:
        """Leaves a method with a stream of responses as it is."""
        return call

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._held.append(turn)
        if self._window is None:
            self._window = loop.call_later(_WINDOW, self._end_window)
        elif len(self._held) == self._enough and self._groups_left:
            self._groups_left -= 1
            self._window.cancel()
            self._let_through()
        await turn

    def _end_window(self) -> None:
        self._groups_left = _GROUPS_BETWEEN_WINDOWS
        if len(self._held) > _FEW:
            self._enough = len(self._held)
            self._calls_between_windows = _CALLS_BETWEEN_WINDOWS.start
        else:
            self._enough = 0
            self._calls_left = self._calls_between_windows
            self._calls_between_windows = min(
                2 * self._calls_between_windows, _CALLS_BETWEEN_WINDOWS.stop - 1
            )
        self._let_through()

    def _let_through(self) -> None:
        self._window = None
        held, self._held = self._held, []
        for turn in held:
            if not turn.done():  # as those of cancelled calls are
                turn.set_result(None)
