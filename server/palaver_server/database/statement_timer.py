"""The timeout of the statements of a connection, one after the other."""

import asyncio
from typing import Any


class StatementTimer:
    """A timer that cancels the task whose statement exceeds the timeout.

    It is set again only when it fires: a timer for each statement, as `asyncio.timeout` has, would
    cost a small read a twentieth of its processor time.

    Args:
        seconds: The timeout.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._end = 0.0
        self._earlier_cancels = 0
        self._has_expired = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timeout of a statement that the current task runs."""
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._earlier_cancels = task.cancelling() if task else 0
        self._end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(self._end, self._check, loop)

    def stop(self) -> bool:
        """End the timeout; return whether it alone has cancelled the task."""
        task, self._task = self._task, None
        has_expired, self._has_expired = self._has_expired, False
        return has_expired and task is not None and task.uncancel() <= self._earlier_cancels

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None:
            return
        if loop.time() < self._end:  # the timer was an earlier statement's
            self._timer = loop.call_at(self._end, self._check, loop)
            return
        self._has_expired = True
        self._task.cancel()
