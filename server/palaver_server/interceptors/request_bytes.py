"""Reading of requests, within the maximum number of bytes of requests in memory.

Until a request is read, gRPC receives no more of it than the flow-control window of its stream. Its
size is not known before, so a call reserves the memory of the largest request, and keeps that of
the request that it has read: until the call ends, and for a pause that grows with the size, so that
a caller's large requests cannot keep the event loop busy.
"""

import asyncio
from typing import NoReturn

from google.protobuf.descriptor import MethodDescriptor
from grpc.aio import EOF

from palaver_server.byte_budget import ByteBudget
from palaver_server.call_context import running_call
from palaver_server.errors import NoRequest
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall
from palaver_server.services.limits import MAX_REQUEST_BYTES

# What a request takes in memory while it is handled, in sizes of the request: its items as they
# arrived, and their texts.
_COPIES = 2

_MAX_BYTES = _COPIES * MAX_REQUEST_BYTES

# How fast the large requests of a caller are read. Decompressing and copying them holds the event
# loop for up to 3 nanoseconds per byte.
_BYTES_PER_SECOND = 32 * 1024 * 1024

# Smaller requests are not counted once they are read: the concurrency limit bounds them.
_SMALL_BYTES = 16 * 1024

# How long after the end of the requests gRPC may take to report that the call was cancelled.
_CANCELLATION_SECONDS = 0.1


async def refuse_call_without_request() -> NoReturn:
    """End a call whose requests have ended before the first.

    Raises:
        CancelledError: The client has left, or gRPC has refused the request.
        NoRequest: The client has sent none.
    """
    # gRPC reports the same for a request that was too large or broke off; it then cancels the task.
    await asyncio.sleep(_CANCELLATION_SECONDS)
    raise NoRequest


class RequestBytes:
    """The interceptor that reads the request of a call as soon as there is room for it.

    It comes after RunningCalls, which ends a read that takes too long; after Authentication, so
    that nobody else makes the server read; and after ConcurrencyLimit, so that waiting calls take
    no memory for it. A credential, or without authentication a connection, may use half of the
    bytes.

    Args:
        max_bytes: Maximum number of bytes, at least four times those of the largest request.
        seconds: How long a call may wait for its bytes and its request, even if its own deadline is
            later, or if it is a stream, which has none.
    """

    def __init__(self, max_bytes: int, *, seconds: float) -> None:
        self._budget = ByteBudget(max_bytes)
        reads_per_caller = max_bytes // 2 // _MAX_BYTES
        self._pause_per_byte = reads_per_caller / _BYTES_PER_SECOND
        self._seconds = seconds

    def intercept(self, _method: MethodDescriptor) -> StartCall:
        """Return a function that reads the request of a call."""
        return self._read

    async def _read(self, incoming: IncomingCall) -> CallHooks | None:
        call = running_call.get()
        caller = call.principal or call.peer
        loop = asyncio.get_running_loop()
        running = incoming.running
        deadline = running.deadline
        running.deadline = min(deadline, loop.time() + self._seconds)
        reserved = kept = 0
        try:
            if not self._budget.try_reserve(caller, _MAX_BYTES):
                await self._budget.reserve(caller, _MAX_BYTES)
            reserved = _MAX_BYTES
            request = await incoming.context.read()
            if request is EOF:  # type: ignore[comparison-overlap]  # not in the stubs
                await refuse_call_without_request()
            call.request_bytes = len(request)
            if call.request_bytes > _SMALL_BYTES:
                kept = _COPIES * call.request_bytes
        finally:
            if reserved:
                self._budget.release(caller, reserved - kept)
        running.deadline = deadline
        incoming.request = request
        if not kept:
            return None
        paused_until = loop.time() + call.request_bytes * self._pause_per_byte
        return _Reservation(self._budget, caller, kept, paused_until)


class _Reservation(CallHooks):
    """The reserved bytes of a large request."""

    __slots__ = ("_budget", "_caller", "_paused_until", "_size")

    def __init__(self, budget: ByteBudget, caller: str, size: int, paused_until: float) -> None:
        self._budget = budget
        self._caller = caller
        self._size = size
        self._paused_until = paused_until

    def close(self) -> None:
        """Return the bytes when the pause is over."""
        loop = asyncio.get_running_loop()
        loop.call_at(self._paused_until, self._budget.release, self._caller, self._size)
