"""Work that takes long if a request or response is large: it runs in a thread of its own.

A server serves all calls on one event loop, so that a computation of a second would delay every
call by a second. In a thread, Python interrupts it every few milliseconds to let the event loop
continue. Only single calls of C functions are not interrupted: their input has to be small.
"""

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import TypeVar, TypeVarTuple, Unpack

ResultT = TypeVar("ResultT")
ArgumentTs = TypeVarTuple("ArgumentTs")

# The slowest inputs, metadata of empty lists, take about a microsecond per byte.
MAX_INLINE_BYTES = 16 * 1024

# Larger requests are scanned, and parsed one item at a time. Parsing takes up to 0.1 microseconds
# per byte.
MAX_PARSED_BYTES = 128 * 1024

# The event loop lets go of Python's lock for each system call, and then waits this long for it.
# A call has some ten of them, so that Python's default of 5 ms would add 50 ms to every call.
_SWITCH_INTERVAL_SECONDS = 0.0005

# How long a caller of `offload_each` uses the thread before the next caller does.
_TURN_SECONDS = 0.02

# One thread: threads do not run Python in parallel, and each takes its share from the event loop.
# Not asyncio's default executor: this work would delay name resolution.
_EXECUTOR = ThreadPoolExecutor(
    max_workers=1,
    thread_name_prefix="large-work",
    initializer=sys.setswitchinterval,
    initargs=(_SWITCH_INTERVAL_SECONDS,),
)


async def offload(
    size: int, work: Callable[[Unpack[ArgumentTs]], ResultT], *arguments: *ArgumentTs
) -> ResultT:
    """Return the result of work: directly if its input is small, else from the thread.

    Args:
        size: Size of the input that determines the duration, in bytes.
        work: Must not touch the event loop.
        arguments: Of the work.
    """
    if size <= MAX_INLINE_BYTES:
        return work(*arguments)
    return await _in_thread(partial(work, *arguments))


async def offload_each(items: Iterator[ResultT]) -> list[ResultT]:
    """Return items that are computed one by one in the thread.

    The thread takes turns between callers, and stops when the caller is cancelled.

    Args:
        items: Must not touch the event loop.
    """
    computed: list[ResultT] = []
    while turn := await _in_thread(partial(_take_turn, items)):
        computed += turn
    return computed


async def _in_thread(work: Callable[[], ResultT]) -> ResultT:
    return await asyncio.get_running_loop().run_in_executor(_EXECUTOR, work)


def _take_turn(items: Iterator[ResultT]) -> list[ResultT]:
    """Return the items of one turn; none at the end."""
    turn = []
    end = perf_counter() + _TURN_SECONDS
    for item in items:
        turn.append(item)
        if perf_counter() > end:
            break
    return turn
