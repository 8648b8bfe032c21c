"""The stream send timeout: how long a chunk of a stream waits for a slow client."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from google.protobuf import descriptor_pool
from google.protobuf.message_factory import GetMessageClass

from palaver_server.errors import CallCancelled, ReaderTooSlow
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall
from palaver_server.interceptors.running_calls import RunningCalls


class StreamSendTimeout:
    """Cancels streams whose client does not take a chunk in time.

    A stream that the server cancels ends with the cursor that resumes it.

    Args:
        running_calls: The calls in progress.
        seconds: How long a chunk may wait for the client.
    """

    def __init__(self, running_calls: RunningCalls, *, seconds: float) -> None:
        self._running_calls = running_calls
        self._seconds = seconds

    def unary(self, _method: str, call: UnaryCall) -> UnaryCall:
        """Return a method with one response unchanged."""
        return call

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wrap a method with a stream of responses."""
        next_cursor = _next_cursor_reader(method)

        async def limited(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            response = b""
            try:
                with self._running_calls.start() as running:
                    async with aclosing(call(request, context)) as responses:
                        async for response in responses:
                            running.cancel_after(self._seconds, ReaderTooSlow)
                            yield response
                            running.clear()
            except CallCancelled as error:
                error.next_cursor = next_cursor(response)
                raise

        return limited


def _next_cursor_reader(method: str) -> Callable[[bytes], int]:
    """Return a function that reads a response's `next_cursor`; it gives 0 where there is none."""
    descriptor = descriptor_pool.Default().FindMethodByName(method.lstrip("/").replace("/", "."))
    response_class = GetMessageClass(descriptor.output_type)

    def next_cursor(response: bytes) -> int:
        return int(getattr(response_class.FromString(response), "next_cursor", 0))

    return next_cursor
