"""Bounds the time of calls, and ends those that outlast it, or the server."""

import asyncio
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from types import TracebackType
from typing import Self

from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from palaver_server.errors import CallEnded, DeadlineExceeded, ReaderTooSlow, ServerStopping
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall

# Seconds after which a call that was ended is told again. Its statement is being
# cancelled then, and a second word makes the driver give up a database that is silent.
_SECONDS_TO_INSIST = 1.0


class TimeLimits:
    """Ends calls: at the default deadline, for a reader that is too slow, and at shutdown.

    A call with a deadline of its own is ended by gRPC. A stream has no default deadline:
    the database bounds the time of each page, and a reader must take each chunk in time.

    Args:
        default_deadline: Seconds that a call without a deadline may take.
        reader_patience: Seconds that a chunk of a stream may wait for its reader.

    Attributes:
        begun: How many calls have begun so far.
    """

    def __init__(self, *, default_deadline: float, reader_patience: float) -> None:
        self._default_deadline = default_deadline
        self._reader_patience = reader_patience
        self.begun = 0
        self._running: set[_RunningCall] = set()

    def end_all(self) -> None:
        """Ends all calls, since the server stops."""
        for call in self._running:
            call.end(ServerStopping)

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""

        async def limited(request: bytes, context: Context) -> bytes:
            self.begun += 1
            with _RunningCall(self._running) as running:
                if context.time_remaining() is None:
                    running.end_after(self._default_deadline, DeadlineExceeded)
                return await call(request, context)

        return limited

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wraps a method with a stream of responses."""
        next_cursor = _cursor_reader(method)

        async def limited(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            self.begun += 1
            response = b""
            try:
                with _RunningCall(self._running) as running:
                    async with aclosing(call(request, context)) as responses:
                        async for response in responses:
                            running.end_after(self._reader_patience, ReaderTooSlow)
                            yield response
                            running.go_on()
            except CallEnded as error:
                error.next_cursor = next_cursor(response)
                raise

        return limited


class _RunningCall:
    """A call of the current task, as a block that others may end for a reason."""

    __slots__ = ("_loop", "_reason", "_running", "_task", "_timer")

    def __init__(self, running: set["_RunningCall"]) -> None:
        self._running = running
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(self._loop)
        self._reason: type[CallEnded] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._running.add(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.discard(self)
        self.go_on()
        # A stream is closed, if it is cancelled while a response is on its way.
        if self._reason is not None and isinstance(error, CancelledError | GeneratorExit):
            raise self._reason from None

    def end_after(self, seconds: float, reason: type[CallEnded]) -> None:
        """Ends the call after so many seconds, unless it may go on before."""
        self._timer = self._loop.call_later(seconds, self.end, reason)

    def go_on(self) -> None:
        """Lets the call run as long as it likes, from now on."""
        if self._timer is not None:
            self._timer.cancel()

    def end(self, reason: type[CallEnded]) -> None:
        """Ends the call: the block raises this."""
        self._reason = reason
        if self._task is not None:
            self._task.cancel()
        self.go_on()
        self.end_after(_SECONDS_TO_INSIST, reason)


def _cursor_reader(method: str) -> Callable[[bytes], int]:
    """Makes what reads the `next_cursor` of a response of the method; 0 where there is none."""
    found = descriptor_pool.Default().FindMethodByName(method.lstrip("/").replace("/", "."))
    response_class = GetMessageClass(found.output_type)

    def next_cursor(response: bytes) -> int:
        return int(getattr(response_class.FromString(response), "next_cursor", 0))

    return next_cursor
