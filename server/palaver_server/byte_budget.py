"""A budget of bytes in memory, shared by callers: of requests, of responses."""

import asyncio


class ByteBudget:
    """Bytes that all callers share; one caller may reserve half of them.

    Args:
        max_bytes: The whole budget.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = self._free = max_bytes
        self._reserved: dict[str | None, int] = {}  # no caller without bytes
        # The requests by the future of their turn, oldest first.
        self._waiting: dict[asyncio.Future[None], tuple[str | None, int, float]] = {}

    def try_reserve(self, caller: str | None, size: int, *, part: float = 1) -> bool:
        """Reserve bytes if they are free for a caller; return whether they were.

        Args:
            caller: The caller's name; None may reserve everything.
            size: Number of bytes.
            part: The part of the caller's share that may be reserved afterwards.
        """
        share = self._max_bytes if caller is None else self._share(caller)
        reserved = self._reserved.get(caller, 0) + size
        if size > self._free or reserved > share * part:
            return False
        self._free -= size
        self._reserved[caller] = reserved
        return True

    def _share(self, _caller: str) -> int:
        return self._max_bytes // 2

    async def reserve(self, caller: str | None, size: int, *, part: float = 1) -> None:
        """Reserve bytes, and wait until they are free; `try_reserve` documents the arguments."""
        if self.try_reserve(caller, size, part=part):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[turn] = (caller, size, part)
        try:
            await turn
        except asyncio.CancelledError:
            if self._waiting.pop(turn, None) is None and not turn.cancelled():
                self.release(caller, size)  # they were reserved just before
            raise

    def release(self, caller: str | None, size: int) -> None:
        """Return bytes, and reserve them for waiting requests, the oldest first."""
        self._free += size
        reserved = self._reserved.get(caller, 0) - size
        if reserved:
            self._reserved[caller] = reserved
        else:
            self._reserved.pop(caller, None)
        for turn, (waiting, needed, part) in list(self._waiting.items()) if self._waiting else ():
            if not turn.done() and self.try_reserve(waiting, needed, part=part):
                del self._waiting[turn]
                turn.set_result(None)
