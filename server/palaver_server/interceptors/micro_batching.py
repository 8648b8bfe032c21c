"""Micro-batching: release calls in batches while many clients call at the same time.

Calls that start together share statements (`database/batching.py`) and finish together, which
saves the event loop most of its wake-ups. But calls still in the socket's buffer are invisible
here, and at low concurrency calls must not be delayed:

- A batch is released when as many calls as the estimated concurrency are in flight (held or
  running) and at least a third of them are held; or when the batch's window closes: no call
  came for a while, or the first call was held for the maximum time.
- The estimated concurrency is the highest number of calls in flight during the last 16 batches.
- If four windows in a row close with few calls in flight, the concurrency is low: from then on
  calls pass immediately. (One such window may only mean that the event loop was busy.) After
  64 calls, one window probes the concurrency again. As long as it stays low, the interval
  between probes doubles, up to 1,024 calls, so that low concurrency costs almost no waiting.
"""

import asyncio
from collections.abc import Awaitable

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall

_MAX_IDLE_SECONDS = 0.003  # since the last call
_MAX_HELD_SECONDS = 0.01  # of the first call
_TIMER_RESOLUTION_SECONDS = 0.001  # of the event loop
_MAX_LOW_CONCURRENCY = 6  # calls in flight
_LOW_WINDOWS = 4  # in a row, until the concurrency is low
_BATCHES_PER_ESTIMATE = 16
_MIN_PROBE_INTERVAL = 64  # calls
_MAX_PROBE_INTERVAL = 1024


class MicroBatching(CallHooks):
    """The interceptor that holds calls with one response until their batch is released.

    As hooks, it counts the running calls.
    """

    def __init__(self) -> None:
        self._held: list[asyncio.Future[None]] = []
        self._running = 0
        self._estimated_concurrency = 0  # 0: low; calls pass immediately
        self._low_windows = 0  # in a row
        self._max_in_flight = 0  # since the last estimate
        self._batches_until_estimate = _BATCHES_PER_ESTIMATE
        self._probe_interval = _MIN_PROBE_INTERVAL
        self._calls_until_probe = _MIN_PROBE_INTERVAL
        self._window: asyncio.TimerHandle | None = None
        self._first_call_at = self._last_call_at = 0.0  # by the event loop's clock

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return a function that holds a call until its release; None for streams."""
        return None if method.server_streaming else self._start

    def _start(self, _call: IncomingCall) -> CallHooks | Awaitable[CallHooks | None]:
        if self._estimated_concurrency or self._held or not self._calls_until_probe:
            return self._released()
        self._calls_until_probe -= 1
        self._running += 1
        return self

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Count a call that has ended."""
        self._running -= 1

    async def _released(self) -> CallHooks:
        """Join the current batch, and wait for its release."""
        loop = asyncio.get_running_loop()
        release = loop.create_future()
        self._held.append(release)
        self._last_call_at = loop.time()
        if self._window is None:
            self._first_call_at = self._last_call_at
            self._window = loop.call_later(_MAX_IDLE_SECONDS, self._check_window, loop)
        elif self._estimated_concurrency:
            in_flight = len(self._held) + self._running
            self._estimated_concurrency = max(self._estimated_concurrency, in_flight)
            if in_flight == self._estimated_concurrency and 3 * len(self._held) >= in_flight:
                self._window.cancel()
                self._low_windows = 0
                self._release()
        await release
        self._running += 1
        return self

    def _check_window(self, loop: asyncio.AbstractEventLoop) -> None:
        end = min(self._last_call_at + _MAX_IDLE_SECONDS, self._first_call_at + _MAX_HELD_SECONDS)
        if loop.time() + _TIMER_RESOLUTION_SECONDS < end:
            self._window = loop.call_at(end, self._check_window, loop)
        else:
            self._close_window()

    def _close_window(self) -> None:
        in_flight = len(self._held) + self._running
        if in_flight > _MAX_LOW_CONCURRENCY:
            self._estimated_concurrency = max(self._estimated_concurrency, in_flight)
            self._low_windows = 0
        else:
            self._low_windows += 1
            if not self._estimated_concurrency or self._low_windows == _LOW_WINDOWS:
                self._pass_until_probe()
        self._release()

    def _pass_until_probe(self) -> None:
        was_probe = not self._estimated_concurrency
        longer = min(2 * self._probe_interval, _MAX_PROBE_INTERVAL)
        self._probe_interval = longer if was_probe else _MIN_PROBE_INTERVAL
        self._calls_until_probe = self._probe_interval
        self._estimated_concurrency = self._low_windows = 0

    def _release(self) -> None:
        self._window = None
        held, self._held = self._held, []
        self._update_estimate(len(held) + self._running)
        for release in held:
            if not release.done():  # the futures of cancelled calls are done
                release.set_result(None)

    def _update_estimate(self, in_flight: int) -> None:
        self._max_in_flight = max(self._max_in_flight, in_flight)
        self._batches_until_estimate -= 1
        if self._estimated_concurrency and self._batches_until_estimate <= 0:
            self._estimated_concurrency = self._max_in_flight
            self._max_in_flight, self._batches_until_estimate = 0, _BATCHES_PER_ESTIMATE
