"""One timer for many timeouts of the same length.

A timer for each call would cost every call a microsecond or two on the event loop, for timeouts
that almost never expire.
"""

import asyncio
from collections.abc import Callable, Collection
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

# A string: at run time this class is not generic.
Task: TypeAlias = "asyncio.Task[Any]"

# Timeouts that expire within this part of their length are reported together.
_BATCH_PART = 0.1


class SharedTimer:
    """Reports the tasks whose timeouts expire. A task ends its timeout.

    Args:
        seconds: The length of every timeout.
        on_timeout: Called with tasks whose timeouts have expired.
    """

    def __init__(self, seconds: float, on_timeout: Callable[[Collection[Task]], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._ends: WeakKeyDictionary[Task, float] = WeakKeyDictionary()  # in the order of the ends
        self._timer: asyncio.TimerHandle | None = None

    def start(self, task: Task) -> None:
        """Start the timeout of a task that has none."""
        loop = asyncio.get_running_loop()
        self._ends[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire, loop)

    def clear(self, task: Task) -> None:
        """End the timeout of a task if it has one."""
        self._ends.pop(task, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        over = [task for task, end in self._ends.items() if end <= now]
        for task in over:
            del self._ends[task]
        expired = [task for task in over if not task.done()]
        next_end = next(iter(self._ends.values()), None)
        self._timer = None
        if next_end is not None:
            at = max(next_end, now + _BATCH_PART * self._seconds)
            self._timer = loop.call_at(at, self._expire, loop)
        if expired:
            self._on_timeout(expired)
