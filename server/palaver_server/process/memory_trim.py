"""Gives memory that is not in use back to the operating system, where glibc would keep it."""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN_TRIMS = 10.0


async def trim_memory(*, every: float = SECONDS_BETWEEN_TRIMS) -> None:
    """Trims the memory of this process, again and again; ends at once where there is no need.

    The calls of a flood leave free pages between the few that are still in use, and glibc
    gives back only those at the end of its heaps, unless it is told to look at all of them:
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html

    Args:
        every: Seconds from one time to the next.
    """
    trim: Callable[[int], Any] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(every)
        await asyncio.to_thread(trim, 0)
