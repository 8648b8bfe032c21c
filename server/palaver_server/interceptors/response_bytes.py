"""The maximum number of bytes of the responses that are being made or wait for their clients."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from google.protobuf.descriptor import MethodDescriptor

from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver_server.auth.principal import PRINCIPAL
from palaver_server.errors import DeadlineExceeded
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall
from palaver_server.services.encoding.wire import integer_tag, varint
from palaver_server.services.limits import (
    MAX_ITEMS,
    MAX_METADATA_BYTES,
    MAX_RESPONSE_BYTES,
    max_struct_bytes,
)
from palaver_server.services.response_budget import (
    LARGE_PART,
    READ_AHEAD,
    READ_AHEAD_PART,
    ResponseBudget,
)

# Maximum size of the fields of a session or a user but its metadata.
_MAX_OTHER_BYTES = 8 * 1024

# The largest responses by their type, where they are smaller than the largest of all.
_MAX_BYTES = {
    "palaver.v1.DeleteMemoryResponse": 1024,
    "palaver.v1.DeleteSessionResponse": 1024,
    "palaver.v1.DeleteUserResponse": 1024,
}

# The responses of metadata of up to the configured size.
_RESOURCES = ("palaver.v1.Session", "palaver.v1.User")

# In a request of AddMemory, `return_session`.
_RETURN_SESSION = integer_tag(AddMemoryRequest, "return_session") + varint(1)

# AddMemory returns the IDs of its request or short ones, a number and a time for each message. A
# message of a request has a role, and so at least this size.
_ADDED_MESSAGE_BYTES = 128
_MIN_MESSAGE_BYTES = 5

# Smaller responses are not counted: the concurrency limit bounds them.
_SMALL_BYTES = 16 * 1024

_Size: TypeAlias = Callable[[bytes], int]


class ResponseBytes:
    """The interceptor that holds a call until there is room for its response.

    It comes after Authentication and RequestBytes.

    Args:
        max_bytes: Maximum number of bytes.
        stream_wait_seconds: How long a stream may wait for room; other calls have a deadline.
        max_metadata_bytes: Maximum size of the metadata of sessions and users as JSON.
    """

    def __init__(
        self,
        max_bytes: int,
        *,
        stream_wait_seconds: float,
        max_metadata_bytes: int = MAX_METADATA_BYTES,
    ) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._budget = ResponseBudget(max_bytes)
        self._stream_wait_seconds = stream_wait_seconds

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that reserves the bytes of a call."""
        if method.server_streaming:
            return self._start_stream
        max_bytes = largest_response(method, self._max_metadata_bytes)

        def start(call: IncomingCall) -> CallHooks | Awaitable[CallHooks] | None:
            size = max_bytes(call.request)
            if size <= _SMALL_BYTES:
                return None
            part = LARGE_PART if size >= MAX_RESPONSE_BYTES else 1
            reservation = _Reservation(self._budget, size)
            if self._budget.try_reserve(reservation.principal, size, part=part):
                return reservation
            return reservation.reserved(size, part)

        return start

    async def _start_stream(self, _call: IncomingCall) -> CallHooks:
        stream = _StreamReservation(self._budget, self._stream_wait_seconds)
        await stream.reserve()
        READ_AHEAD.set(stream)
        return stream


class _Reservation(CallHooks):
    """The reserved bytes of a call."""

    __slots__ = ("_budget", "_size", "principal")

    def __init__(self, budget: ResponseBudget, size: int) -> None:
        principal = PRINCIPAL.get()
        self.principal = principal.name if principal else None
        self._budget = budget
        self._size = size

    async def reserved(self, size: int, part: float) -> CallHooks:
        """Wait until the bytes are reserved, and return the hooks of the call."""
        await self._budget.reserve(self.principal, size, part=part)
        return self

    def before_send(self, response: bytes) -> None:
        """Shrink to the size of the response, or to nothing if it is small."""
        size = len(response)
        self._release(self._size - size if size > _SMALL_BYTES else self._size)

    def close(self) -> None:
        """Return the bytes."""
        if self._size:
            self._release(self._size)

    def _release(self, size: int) -> None:
        self._size -= size
        self._budget.release(self.principal, size)


class _StreamReservation(_Reservation):
    """The reserved bytes of a stream: of the chunk being sent, and of the page read meanwhile."""

    __slots__ = ("_chunk", "_wait_seconds")

    def __init__(self, budget: ResponseBudget, wait_seconds: float) -> None:
        super().__init__(budget, 0)
        self._wait_seconds = wait_seconds
        self._chunk = 0

    def try_reserve(self) -> bool:
        """Reserve the bytes of the next page; return whether they were free."""
        is_free = self._budget.try_reserve(self.principal, MAX_RESPONSE_BYTES, part=READ_AHEAD_PART)
        if is_free:
            self._size += MAX_RESPONSE_BYTES
        return is_free

    async def reserve(self) -> None:
        """Reserve the bytes of the next page.

        Raises:
            DeadlineExceeded: They were not free in time.
        """
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._budget.reserve(self.principal, MAX_RESPONSE_BYTES, part=LARGE_PART)
        except TimeoutError:
            raise DeadlineExceeded from None
        self._size += MAX_RESPONSE_BYTES

    def before_send(self, response: bytes) -> None:
        """Shrink the bytes of the page to those of its chunk."""
        self._chunk = len(response)
        self._release(MAX_RESPONSE_BYTES - self._chunk)

    def after_send(self) -> None:
        """Return the bytes of the chunk."""
        self._release(self._chunk)


def largest_response(
    method: MethodDescriptor, max_metadata_bytes: int = MAX_METADATA_BYTES
) -> _Size:
    """Return a function that gives the largest size of a response to a request."""
    resource_bytes = max_struct_bytes(max_metadata_bytes) + _MAX_OTHER_BYTES
    name = method.output_type.full_name
    if method.output_type.name == "AddMemoryResponse":
        return partial(_largest_added, resource_bytes)
    max_bytes = resource_bytes if name in _RESOURCES else _MAX_BYTES.get(name, MAX_RESPONSE_BYTES)
    return lambda _request: max_bytes


def _largest_added(session_bytes: int, request: bytes) -> int:
    messages = min(len(request) // _MIN_MESSAGE_BYTES, MAX_ITEMS)
    session = session_bytes if _RETURN_SESSION in request else 0
    size = len(request) + messages * _ADDED_MESSAGE_BYTES + session
    return min(size, MAX_RESPONSE_BYTES)
