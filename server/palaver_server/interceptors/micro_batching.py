"""Lets calls through in groups while there are many callers.

Calls that start together share statements (`database/batching.py`) and finish together,
which saves the event loop most of its wake-ups. But what waits at the socket is not seen,
and a few callers must not be kept waiting:

- A group leaves when all the callers that are known of are in it or still running, and a
  third of them are in it; or when its window is over: when nobody has come for a while, or
  the first has waited for long enough.
- Known of are as many as were seen in flight at once, in the last 16 groups.
- Where four windows in a row end with a few calls in flight, the callers are few: from then
  on calls pass at once. (One such window may just have found the event loop busy.) Then a
  window is tried after 64 calls, and, as long as they stay few, half as often each time, down
  to once in 1,024 calls. So a few callers wait for next to nothing.
"""

import asyncio

from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall

_PAUSE = 0.003  # seconds after the last call
_WINDOW = 0.01  # seconds after the first
_TICK = 0.001  # as exact as the event loop's timers are
_FEW = 6
_WINDOWS_TO_BE_FEW = 4
_GROUPS_A_COUNT = 16
_CALLS_A_TRIAL = 64
_MOST_CALLS_A_TRIAL = 1024


class Gathering:
    """Holds calls with one response until there is a group of them."""

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._running = 0
        self._callers = 0  # 0: few; calls pass at once
        self._few_in_a_row = 0  # windows
        self._most_seen = 0  # in flight, since the callers were counted
        self._groups_left = _GROUPS_A_COUNT
        self._calls_a_trial = _CALLS_A_TRIAL
        self._calls_left = _CALLS_A_TRIAL
        self._window: asyncio.TimerHandle | None = None
        self._first_came = self._last_came = 0.0  # by the event loop's clock

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""

        async def gathered(request: bytes, context: Context) -> bytes:
            if self._callers or self._held or not self._calls_left:
                await self._turn()
            else:
                self._calls_left -= 1
            self._running += 1
            try:
                return await call(request, context)
            finally:
                self._running -= 1

        return gathered

    def stream(self, _method: str, call: StreamCall) -> StreamCall:
        """Leaves a method with a stream of responses as it is."""
        return call

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._held.append(turn)
        self._last_came = loop.time()
        if self._window is None:
            self._first_came = self._last_came
            self._window = loop.call_later(_PAUSE, self._look_at_window, loop)
        elif self._callers:
            in_flight = len(self._held) + self._running
            self._callers = max(self._callers, in_flight)
            if in_flight == self._callers and 3 * len(self._held) >= in_flight:
                self._window.cancel()
                self._few_in_a_row = 0
                self._let_through()
        await turn

    def _look_at_window(self, loop: asyncio.AbstractEventLoop) -> None:
        end = min(self._last_came + _PAUSE, self._first_came + _WINDOW)
        if loop.time() + _TICK < end:
            self._window = loop.call_at(end, self._look_at_window, loop)
        else:
            self._end_window()

    def _end_window(self) -> None:
        in_flight = len(self._held) + self._running
        if in_flight > _FEW:
            self._callers = max(self._callers, in_flight)
            self._few_in_a_row = 0
        else:
            self._few_in_a_row += 1
            if not self._callers or self._few_in_a_row == _WINDOWS_TO_BE_FEW:
                self._pass_at_once()
        self._let_through()

    def _pass_at_once(self) -> None:
        was_trial = not self._callers
        longer = min(2 * self._calls_a_trial, _MOST_CALLS_A_TRIAL)
        self._calls_a_trial = longer if was_trial else _CALLS_A_TRIAL
        self._calls_left = self._calls_a_trial
        self._callers = self._few_in_a_row = 0

    def _let_through(self) -> None:
        self._window = None
        held, self._held = self._held, []
        self._count(len(held) + self._running)
        for turn in held:
            if not turn.done():  # as those of cancelled calls are
                turn.set_result(None)

    def _count(self, in_flight: int) -> None:
        self._most_seen = max(self._most_seen, in_flight)
        self._groups_left -= 1
        if self._callers and self._groups_left <= 0:
            self._callers = self._most_seen
            self._most_seen, self._groups_left = 0, _GROUPS_A_COUNT
