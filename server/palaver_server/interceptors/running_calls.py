"""The calls in progress, and their cancellation by the server with a reason for the caller.

The reasons are a deadline, a slow reader of a stream, and a server that stops. A call whose handler
has ended is abandoned if its response or its status does not leave in time.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Sequence
from math import inf
from typing import Any, TypeAlias

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import CallCancelled, DeadlineExceeded, ServerStopping
from palaver_server.interceptors.abandoned_calls import abandon_calls
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall

# A string: at run time this class is not generic.
Task: TypeAlias = "asyncio.Task[Any]"

# A cancelled call first cancels its statement on the database. If the database is silent,
# only a second cancellation makes the driver give up the connection.
_CANCEL_AGAIN_SECONDS = 1.0

# How late a deadline may be noticed: this part of the shortest timeout, and at most these seconds.
_LATE_PART = 0.1
_MAX_LATE_SECONDS = 0.25


class RunningCalls:
    """The calls in progress.

    As an interceptor, it cancels calls with one response and without a deadline of their own after
    the default deadline. gRPC itself cancels a call whose client set a deadline. Streams have no
    default deadline: the statement timeout limits each page, and `SendTimeout` each chunk.

    One timer checks the deadlines of all calls: a timer for each would cost every call a
    microsecond or two, for deadlines that almost never pass.

    Args:
        default_deadline_seconds: The default deadline.
        send_timeout_seconds: How long a response or status may wait for the client.

    Attributes:
        started: Number of calls started so far.
    """

    def __init__(self, *, default_deadline_seconds: float, send_timeout_seconds: float) -> None:
        self.started = 0
        self._calls: set[RunningCall] = set()
        self._default_deadline_seconds = default_deadline_seconds
        self._send_timeout_seconds = send_timeout_seconds
        shortest = min(default_deadline_seconds, send_timeout_seconds)
        self._check_seconds = min(_LATE_PART * shortest, _MAX_LATE_SECONDS)
        self._timer: asyncio.TimerHandle | None = None

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that starts a call."""
        has_default = not method.server_streaming

        def start(incoming: IncomingCall) -> CallHooks:
            loop = asyncio.get_running_loop()
            deadline = inf
            if has_default and incoming.context.time_remaining() is None:
                deadline = loop.time() + self._default_deadline_seconds
            call = RunningCall(self._calls, loop, self._send_timeout_seconds, deadline)
            self._calls.add(call)
            self.started += 1
            if self._timer is None:
                self._timer = loop.call_later(self._check_seconds, self._check_deadlines, loop)
            incoming.running = call
            return call

        return start

    def cancel_all(self) -> None:
        """Cancel all calls because the server is stopping; those that are leaving may leave."""
        for call in self._calls:
            call.cancel(ServerStopping)

    def _check_deadlines(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        overdue = [call for call in self._calls if call.deadline <= now]
        if overdue:
            _end(overdue)
        self._timer = None
        if self._calls:
            self._timer = loop.call_later(self._check_seconds, self._check_deadlines, loop)


class RunningCall(CallHooks):
    """A call of the current task. If the server cancels it, it ends with the reason.

    Attributes:
        deadline: When the server cancels the call, by the event loop's clock.
        reason: The reason, unless `cancel` gives another.
        has_ended: Whether the handler has ended; the response or the status is leaving.
        task: Runs the call.
    """

    __slots__ = (
        "_calls",
        "_is_cancelled",
        "_loop",
        "_send_timeout_seconds",
        "deadline",
        "has_ended",
        "reason",
        "task",
    )

    def __init__(
        self,
        calls: set["RunningCall"],
        loop: asyncio.AbstractEventLoop,
        send_timeout_seconds: float,
        deadline: float,
    ) -> None:
        self.deadline = deadline
        self.reason: type[CallCancelled] = DeadlineExceeded
        self.has_ended = False
        self.task = asyncio.current_task(loop)
        self._calls = calls
        self._loop = loop
        self._send_timeout_seconds = send_timeout_seconds
        self._is_cancelled = False

    def fail(self, error: BaseException) -> BaseException:
        """Replace a cancellation by the server with its reason."""
        if self._is_cancelled and isinstance(error, CancelledError):
            return self.reason()
        return error

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Start the timeout of the response or status."""
        self.has_ended = True
        self.deadline = self._loop.time() + self._send_timeout_seconds

    def close(self) -> None:
        """Count the call no more."""
        self._calls.discard(self)

    def cancel(self, reason: type[CallCancelled]) -> None:
        """Cancel the call, which ends with this reason; not if its handler has ended."""
        if self.task is not None and not self.has_ended:
            self.reason = reason
            self._is_cancelled = True
            self.deadline = self._loop.time() + _CANCEL_AGAIN_SECONDS
            self.task.cancel()


def _end(overdue: Sequence[RunningCall]) -> None:
    """Cancel calls whose deadline has passed, and abandon those that do not leave."""
    leaving: list[Task] = []
    for call in overdue:
        if not call.has_ended:
            call.cancel(call.reason)
        elif call.task is not None:
            call.deadline = inf
            leaving.append(call.task)
    if leaving:
        abandon_calls(leaving)
