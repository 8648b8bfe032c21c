"""The default deadline of calls with one response.

gRPC itself cancels a call whose client set a deadline. Streams have no default deadline: the
statement timeout limits each page, and the stream send timeout limits each chunk.
"""

from palaver_server.errors import DeadlineExceeded
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall
from palaver_server.interceptors.running_calls import RunningCalls


class Deadlines:
    """Cancels calls without a deadline of their own after the default deadline.

    Args:
        running_calls: The calls in progress.
        default_seconds: The default deadline.
    """

    def __init__(self, running_calls: RunningCalls, *, default_seconds: float) -> None:
        self._running_calls = running_calls
        self._default_seconds = default_seconds

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Wrap a method with one response."""

        async def limited(request: bytes, context: Context) -> bytes:
            with self._running_calls.start() as running:
                if context.time_remaining() is None:
                    running.cancel_after(self._default_seconds, DeadlineExceeded)
                return await call(request, context)

        return limited

    def stream(self, _method: str, call: StreamCall) -> StreamCall:
        """Return a method with a stream of responses unchanged."""
        return call
