"""The default deadline of calls with one response.

gRPC itself cancels a call whose client set a deadline. Streams have no default deadline: the
statement timeout limits each page, and the stream send timeout limits each chunk.
"""

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.errors import DeadlineExceeded
from palaver_server.interceptors.interceptor import CallHooks, IncomingCall, StartCall
from palaver_server.interceptors.running_calls import RunningCalls


class Deadlines:
    """The interceptor that cancels calls without a deadline after the default deadline.

    Args:
        running_calls: The calls in progress.
        default_seconds: The default deadline.
    """

    def __init__(self, running_calls: RunningCalls, *, default_seconds: float) -> None:
        self._running_calls = running_calls
        self._default_seconds = default_seconds

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return a function that starts the deadline; None for streams."""
        return None if method.server_streaming else self._start

    def _start(self, call: IncomingCall) -> CallHooks:
        running = self._running_calls.start()
        if call.context.time_remaining() is None:
            running.cancel_after(self._default_seconds, DeadlineExceeded)
        return running
