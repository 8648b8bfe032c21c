"""The budget of bytes for responses that are being made or wait for their clients.

Bytes are reserved before they are read from the database, at the largest size that the response may
have, and the reservation shrinks to the actual size. So the budget is never exceeded, and a call
waits for it before it has done anything.
"""

from contextvars import ContextVar
from typing import Protocol

from palaver_server.byte_budget import ByteBudget

# The parts of a principal's share that reservations for the largest responses may fill, and for
# the pages that streams read ahead. Small responses have the rest to themselves, so that clients
# that read large ones slowly do not stop their own small calls.
LARGE_PART = 0.75
READ_AHEAD_PART = 0.5


class ResponseBudget(ByteBudget):
    """Bytes that all responses share; a principal may reserve as many as are then left for others.

    It should have room for four of the largest responses. The principal None stands for all callers
    without authentication.
    """

    def _share(self, caller: str) -> int:
        return (self._free + self._reserved.get(caller, 0)) // 2


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
