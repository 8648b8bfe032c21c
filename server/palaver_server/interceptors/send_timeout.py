"""The send timeout: how long a chunk of a stream waits for a slow client.

A chunk that waits too long ends the stream, with the cursor that resumes it. `RunningCalls` has the
timeout of other responses.
"""

import asyncio
from collections.abc import Callable
from math import inf

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import CallCancelled, ReaderTooSlow
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall
from palaver_server.interceptors.running_calls import RunningCall
from palaver_server.services.encoding.wire_reader import read_varint, wire_fields


class SendTimeout:
    """Ends streams whose client does not take a chunk in time. It comes after RunningCalls.

    Args:
        seconds: How long a chunk may wait for the client.
    """

    def __init__(self, *, seconds: float) -> None:
        self._seconds = seconds

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return a function that starts a stream; None for calls with one response."""
        if not method.server_streaming:
            return None
        next_cursor = _next_cursor_reader(method)

        def start(incoming: IncomingCall) -> CallHooks:
            return _Stream(incoming.running, self._seconds, next_cursor)

        return start


class _Stream(CallHooks):
    """A running stream, which the server cancels if a chunk waits for too long."""

    __slots__ = ("_loop", "_next_cursor", "_response", "_running", "_seconds")

    def __init__(
        self, running: RunningCall, seconds: float, next_cursor: Callable[[bytes], int]
    ) -> None:
        self._running = running
        self._seconds = seconds
        self._next_cursor = next_cursor
        self._loop = asyncio.get_running_loop()
        self._response = b""

    def before_send(self, response: bytes) -> None:
        """Start the timeout of a chunk."""
        self._response = response
        self._running.reason = ReaderTooSlow
        self._running.deadline = self._loop.time() + self._seconds

    def after_send(self) -> None:
        """End the timeout of a chunk."""
        self._running.deadline = inf

    def fail(self, error: BaseException) -> BaseException:
        """Add the cursor that resumes the stream to the reason of a cancellation."""
        error = self._running.fail(error)
        if isinstance(error, CallCancelled):
            error.next_cursor = self._next_cursor(self._response)
        return error

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Drop the chunk."""
        self._response = b""


def _next_cursor_reader(method: MethodDescriptor) -> Callable[[bytes], int]:
    """Return a function that reads a response's `next_cursor`; it gives 0 where there is none."""
    field = method.output_type.fields_by_name.get("next_cursor")
    number = field.number if field else 0  # no field has the number 0

    def next_cursor(response: bytes) -> int:
        # Not parsed: 4 MiB of metadata would hold the event loop for 100 ms.
        starts = (each.start for each in wire_fields(response) if each.number == number)
        start = next(starts, None)
        return 0 if start is None else read_varint(response, start)[0]

    return next_cursor
