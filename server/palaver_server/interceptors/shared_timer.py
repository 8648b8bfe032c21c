"""One timer for many timeouts of the same length.

A timer for each call would cost every call a microsecond or two on the event loop, for timeouts
that almost never expire.
"""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)


class SharedTimer(Generic[KeyT]):
    """Calls a function with each key whose timeout expires.

    Args:
        seconds: The length of every timeout.
        on_timeout: Called when one expires.
    """

    def __init__(self, seconds: float, on_timeout: Callable[[KeyT], None]) -> None:
        self._seconds = seconds
        self._on_timeout = on_timeout
        self._ends: dict[KeyT, float] = {}  # in the order of the ends
        self._timer: asyncio.TimerHandle | None = None

    def start(self, key: KeyT) -> None:
        """Start the timeout of a key that has none."""
        loop = asyncio.get_running_loop()
        self._ends[key] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(self._seconds, self._expire, loop)

    def clear(self, key: KeyT) -> None:
        """End the timeout of a key if it has one."""
        self._ends.pop(key, None)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        expired = [key for key, end in self._ends.items() if end <= now]
        for key in expired:
            del self._ends[key]
        if self._ends:
            self._timer = loop.call_at(next(iter(self._ends.values())), self._expire, loop)
        for key in expired:
            self._on_timeout(key)
