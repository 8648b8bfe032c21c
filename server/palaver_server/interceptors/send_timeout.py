"""The send timeout: how long a response waits for a slow client.

A chunk of a stream that waits too long ends the stream, with the cursor that resumes it. A call
whose handler has ended is abandoned if its response or its status does not leave in time.
"""

import asyncio
from collections.abc import Callable

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import CallCancelled, ReaderTooSlow
from palaver_server.interceptors.abandoned_calls import abandon_calls
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall
from palaver_server.interceptors.running_calls import RunningCall, RunningCalls
from palaver_server.interceptors.shared_timer import SharedTimer
from palaver_server.services.encoding.wire_reader import read_varint, wire_fields


class SendTimeout:
    """Ends calls whose client does not take a response in time.

    Args:
        running_calls: The calls in progress.
        seconds: How long a response may wait for the client.
    """

    def __init__(self, running_calls: RunningCalls, *, seconds: float) -> None:
        self._running_calls = running_calls
        self._seconds = seconds
        self._leaving: SharedTimer = SharedTimer(seconds, abandon_calls)

    def intercept(self, method: MethodDescriptor) -> StartCall | CallHooks:
        """Return the hooks of calls with one response, or a function that starts a stream."""
        if not method.server_streaming:
            return _Sending(self._leaving)
        next_cursor = _next_cursor_reader(method)

        def start(_call: IncomingCall) -> CallHooks:
            running = self._running_calls.start()
            return _Stream(self._leaving, running, self._seconds, next_cursor)

        return start


class _Sending(CallHooks):
    """A call, which is abandoned if it has ended and does not leave in time."""

    __slots__ = ("_leaving",)

    def __init__(self, leaving: SharedTimer) -> None:
        self._leaving = leaving

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Start the timeout of the response or status. It ends with the call's task."""
        task = asyncio.current_task()
        if task is not None:
            self._leaving.start(task)


class _Stream(_Sending):
    """A running stream, which the server cancels if a chunk waits for too long."""

    __slots__ = ("_next_cursor", "_response", "_running", "_seconds")

    def __init__(
        self,
        leaving: SharedTimer,
        running: RunningCall,
        seconds: float,
        next_cursor: Callable[[bytes], int],
    ) -> None:
        super().__init__(leaving)
        self._running = running
        self._seconds = seconds
        self._next_cursor = next_cursor
        self._response = b""

    def before_send(self, response: bytes) -> None:
        """Start the timeout of a chunk."""
        self._response = response
        self._running.cancel_after(self._seconds, ReaderTooSlow)

    def after_send(self) -> None:
        """End the timeout of a chunk."""
        self._running.clear()

    def fail(self, error: BaseException) -> BaseException:
        """Add the cursor that resumes the stream to the reason of a cancellation."""
        error = self._running.fail(error)
        if isinstance(error, CallCancelled):
            error.next_cursor = self._next_cursor(self._response)
        return error

    def end(self, error: BaseException | None) -> None:
        """Start the timeout of the end of the stream."""
        self._running.end(error)
        self._response = b""
        super().end(error)


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
