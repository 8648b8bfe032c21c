"""Return free memory to the operating system, where glibc would keep it."""

import asyncio
import ctypes
from collections.abc import Callable
from typing import Any

TRIM_INTERVAL_SECONDS = 10.0

# Blocks of this size return to the operating system when they are freed. By itself glibc raises the
# threshold to the size of such a block, up to 32 MiB, and then keeps those of large requests.
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_BYTES = 1024 * 1024


async def trim_memory(*, interval_seconds: float = TRIM_INTERVAL_SECONDS) -> None:
    """Trim this process's memory at intervals; return at once if the C library is not glibc.

    A burst of calls leaves free pages between the few pages that stay in use. By itself glibc
    returns only those at the end of a heap; malloc_trim returns all of them:
    https://man7.org/linux/man-pages/man3/malloc_trim.3.html
    """
    library = ctypes.CDLL(None)
    trim: Callable[[int], Any] | None = getattr(library, "malloc_trim", None)
    if trim is None:
        return
    library.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_BYTES)
    while True:
        await asyncio.sleep(interval_seconds)
        await asyncio.to_thread(trim, 0)
