"""Calls that run through one interceptor of a real chain, without a server."""

from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any

from palaver.v1 import session_service_pb2 as pb
from palaver_server.interceptors.chain import InterceptorChain
from palaver_server.interceptors.interceptor import IncomingCall, Interceptor, StartCall
from palaver_server.services.encoding.encoded import Encoded

# Takes a request and a context, and returns the response.
Call = Callable[[bytes, Any], Coroutine[Any, Any, bytes]]

METHODS = pb.DESCRIPTOR.services_by_name["SessionService"].methods_by_name
UNARY_METHODS = ("AddSession", "GetSession", "UpdateSession", "DeleteSession")


# The request of the current call.
_REQUEST: ContextVar[bytes] = ContextVar("request")


class _GivenRequest:
    """The interceptor that stands in for the one that reads the request."""

    def intercept(self, _method: Any) -> StartCall:
        return self._start

    def _start(self, call: IncomingCall) -> None:
        call.request = _REQUEST.get()


def intercepted(interceptor: Interceptor, call: Call, *, method: str = "GetSession") -> Call:
    """Return a call that runs behind the interceptor. The request travels as a session ID.

    Args:
        interceptor: The only one in the chain.
        call: Runs behind it.
        method: A method with one response, which the interceptor sees.
    """

    async def handler(request: Any, context: Any) -> Encoded[Any]:
        response = await call(request.session_id.encode("latin-1"), context)
        return Encoded(response)

    handle: Any = InterceptorChain([interceptor, _GivenRequest()]).wrap(METHODS[method], handler)

    async def run(request: bytes, context: Any) -> bytes:
        message = pb.GetSessionRequest(session_id=request.decode("latin-1"))
        _REQUEST.set(message.SerializeToString())
        response: bytes = await handle.stream_unary(None, context)
        return response

    return run
