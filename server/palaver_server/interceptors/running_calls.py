"""The calls in progress, and their cancellation by the server with a reason for the caller."""

import asyncio
from asyncio import CancelledError
from types import TracebackType
from typing import Self

from palaver_server.errors import CallCancelled, ServerStopping

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
        """Count a call of the current task, and return the block in which it runs."""
        self.started += 1
        return RunningCall(self._calls)

    def cancel_all(self) -> None:
        """Cancel all calls because the server is stopping."""
        for call in self._calls:
            call.cancel(ServerStopping)


class RunningCall:
    """A block around a call of the current task; a cancelled one raises the reason."""

    __slots__ = ("_calls", "_loop", "_reason", "_task", "_timer")

    def __init__(self, calls: set["RunningCall"]) -> None:
        self._calls = calls
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        self._reason: type[CallCancelled] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._calls.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._calls.discard(self)
        self.clear()
        # GeneratorExit: a stream that is cancelled while it sends a response is closed.
        if self._reason is not None and isinstance(error, CancelledError | GeneratorExit):
            raise self._reason from None

    def cancel_after(self, seconds: float, reason: type[CallCancelled]) -> None:
        """Cancel the call after a delay, unless `clear` is called first."""
        self._timer = self._loop.call_later(seconds, self.cancel, reason)

    def clear(self) -> None:
        """Revoke `cancel_after`."""
        if self._timer is not None:
            self._timer.cancel()

    def cancel(self, reason: type[CallCancelled]) -> None:
        """Cancel the call: the block raises this reason."""
        self._reason = reason
        if self._task is not None:
            self._task.cancel()
        self.clear()
        self.cancel_after(_CANCEL_AGAIN_SECONDS, reason)
