"""Free memory is returned to the operating system."""

import asyncio
import ctypes

import psutil
import pytest

from palaver_server.process.memory_trim import trim_memory
from tests.support.watching import eventually

_PIECE_BYTES = 2_000
_PIECES = 50_000
_KEPT = 100

_libc = ctypes.CDLL(None)
_libc.malloc.argtypes = [ctypes.c_size_t]
_libc.malloc.restype = ctypes.c_void_p
_libc.free.argtypes = [ctypes.c_void_p]
_libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.skipif(not hasattr(_libc, "malloc_trim"), reason="the C library is not glibc")
def test_memory_trim_returns_fragmented_memory() -> None:
    pieces = [_libc.malloc(_PIECE_BYTES) for _ in range(_PIECES)]
    for piece in pieces:
        _libc.memset(piece, 1, _PIECE_BYTES)
    full = _resident_bytes()
    for number, piece in enumerate(pieces):
        if number % _KEPT:
            _libc.free(piece)
    given_back = _PIECE_BYTES * _PIECES // 2

    async def trimmed() -> None:
        trimming = asyncio.create_task(trim_memory(interval_seconds=0.01))
        await asyncio.to_thread(
            eventually, lambda: _resident_bytes() < full - given_back, "half of it is given back"
        )
        trimming.cancel()

    asyncio.run(trimmed())

    for piece in pieces[::_KEPT]:
        _libc.free(piece)
