"""The budget of bytes for responses that are being made or wait for their clients.

Bytes are reserved before they are read from the database, at the largest size that the response may
have, and the reservation shrinks to the actual size. So the budget is never exceeded, and a call
waits for it before it has done anything.
"""

import asyncio
from collections import Counter, OrderedDict
from contextvars import ContextVar
from typing import Protocol

from palaver_server.services.limits import MAX_RESPONSE_BYTES

# The parts of a principal's share that reservations may fill. Small responses have the rest to
# themselves, so that clients that read large ones slowly do not stop their own small calls.
_LARGE_PART = 0.75
_READ_AHEAD_PART = 0.5


class ResponseBudget:
    """Bytes that all responses share; one principal may reserve half of them.

    Args:
        max_bytes: The whole budget, at least four of the largest responses.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._free = max_bytes
        self._reserved: Counter[str | None] = Counter()
        # The requests by the future of their turn, oldest first.
        self._waiting: OrderedDict[asyncio.Future[None], tuple[str | None, int]] = OrderedDict()

    def try_reserve(self, principal: str | None, size: int, *, is_read_ahead: bool = False) -> bool:
        """Reserve bytes if they are free for a principal; return whether they were.

        Args:
            principal: The principal's name; None, without authentication, may reserve everything.
            size: Number of bytes.
            is_read_ahead: Whether the bytes are for a page that nothing waits for yet.
        """
        share: float = self._max_bytes if principal is None else self._max_bytes // 2
        if is_read_ahead:
            share *= _READ_AHEAD_PART
        elif size >= MAX_RESPONSE_BYTES:
            share *= _LARGE_PART
        if size > self._free or self._reserved[principal] + size > share:
            return False
        self._free -= size
        self._reserved[principal] += size
        return True

    async def reserve(self, principal: str | None, size: int) -> None:
        """Reserve bytes, and wait until they are free."""
        if self.try_reserve(principal, size):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (principal, size)
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None and not turn.cancelled():
                self.release(principal, size)  # they were reserved just before
            raise

    def release(self, principal: str | None, size: int) -> None:
        """Return bytes, and reserve them for waiting requests, the oldest first."""
        self._free += size
        self._reserved[principal] -= size
        if not self._reserved[principal]:
            del self._reserved[principal]
        for turn, request in list(self._waiting.items()) if self._waiting else ():
            if not turn.done() and self.try_reserve(*request):
                del self._waiting[turn]
                turn.set_result(None)


class ReadAhead(Protocol):
    """Permission to read the next page of a stream."""

    def try_reserve(self) -> bool:
        """Reserve the bytes of a page, to read it while another is sent; return whether it can."""
        ...

    async def reserve(self) -> None:
        """Reserve the bytes of a page, and wait until they are free."""
        ...


# The permission of the current stream.
READ_AHEAD: ContextVar[ReadAhead] = ContextVar("read_ahead")
