"""The calls in progress, and their cancellation by the server with a reason for the caller."""

import asyncio
from asyncio import CancelledError

from palaver_server.errors import CallCancelled, ServerStopping
from palaver_server.interceptors.interceptor import CallHooks

# A cancelled call first cancels its statement on the database. If the database is silent,
# only a second cancellation makes the driver give up the connection.
_CANCEL_AGAIN_SECONDS = 1.0


class RunningCalls:
    """The calls in progress.

    Attributes:
        started: Number of calls started so far.
    """

    def __init__(self) -> None:
        self.started = 0
        self._calls: set[RunningCall] = set()

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

    def end(self, error: BaseException | None) -> BaseException | None:
        """Replace a cancellation by the server with its reason."""
        self._calls.discard(self)
        self.clear()
        if self._reason is not None and isinstance(error, CancelledError):
            return self._reason()
        return error

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
