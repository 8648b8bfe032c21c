"""The calls in progress, and their cancellation by the server with a reason for the caller.

The reasons are the default deadline, a slow reader of a stream, and a server that stops.
"""

import asyncio
from asyncio import CancelledError

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import CallCancelled, DeadlineExceeded, ServerStopping
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall

# A cancelled call first cancels its statement on the database. If the database is silent,
# only a second cancellation makes the driver give up the connection.
_CANCEL_AGAIN_SECONDS = 1.0


class RunningCalls:
    """The calls in progress.

    As an interceptor, it cancels calls with one response and without a deadline of their own after
    the default deadline. gRPC itself cancels a call whose client set a deadline. Streams have no
    default deadline: the statement timeout limits each page, and the send timeout each chunk.

    Args:
        default_deadline_seconds: The default deadline.

    Attributes:
        started: Number of calls started so far.
    """

    def __init__(self, *, default_deadline_seconds: float) -> None:
        self.started = 0
        self._calls: set[RunningCall] = set()
        self._default_deadline_seconds = default_deadline_seconds

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return a function that starts a call; None for streams, which SendTimeout starts."""
        return None if method.server_streaming else self._start_unary

    def _start_unary(self, incoming: IncomingCall) -> CallHooks:
        call = self.start()
        if incoming.context.time_remaining() is None:
            call.cancel_after(self._default_deadline_seconds, DeadlineExceeded)
        return call

    def start(self) -> "RunningCall":
        """Count a call of the current task, and return its hooks."""
        self.started += 1
        call = RunningCall(self._calls)
        self._calls.add(call)
        return call

    def cancel_all(self) -> None:
        """Cancel all calls because the server is stopping."""
        for call in self._calls:
            call.cancel(ServerStopping)


class RunningCall(CallHooks):
    """A call of the current task. If the server cancels it, it ends with the reason."""

    __slots__ = ("_calls", "_loop", "_reason", "_task", "_timer")

    def __init__(self, calls: set["RunningCall"]) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        self._reason: type[CallCancelled] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def fail(self, error: BaseException) -> BaseException:
        """Replace a cancellation by the server with its reason."""
        if self._reason is not None and isinstance(error, CancelledError):
            return self._reason()
        return error

    def end(self, error: BaseException | None) -> None:  # noqa: ARG002
        """Count the call no more."""
        self._calls.discard(self)
        self.clear()

    def cancel_after(self, seconds: float, reason: type[CallCancelled]) -> None:
        """Cancel the call after a delay, unless `clear` is called first."""
        self._timer = self._loop.call_later(seconds, self.cancel, reason)

    def clear(self) -> None:
        """Revoke `cancel_after`."""
        if self._timer is not None:
            self._timer.cancel()

    def cancel(self, reason: type[CallCancelled]) -> None:
        """Cancel the call, which ends with this reason."""
        self._reason = reason
        if self._task is not None:
            self._task.cancel()
        self.clear()
        self.cancel_after(_CANCEL_AGAIN_SECONDS, reason)
