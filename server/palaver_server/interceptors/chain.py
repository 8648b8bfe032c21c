"""The chain of interceptors: one ordered list, composed once for each method."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message

from palaver_server.errors import FieldViolation, InvalidRequest

# Strings: at run time these classes are not generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

UnaryCall: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
StreamCall: TypeAlias = Callable[[bytes, Context], AsyncGenerator[bytes, None]]


class Interceptor(Protocol):
    """One concern of every call.

    It wraps calls of both kinds, and sees requests and responses as the bytes that travel.
    A method is named in full, such as `/palaver.v1.SessionService/GetSession`.
    """

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""
        ...

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wraps a method with a stream of responses."""
        ...


class InterceptorChain:
    """Runs every call of a method through interceptors.

    Args:
        interceptors: Outermost first.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(reversed(interceptors))

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Wraps the handler of a method, given its full name."""
        if handler.unary_unary:
            call = _unary(handler)
            for interceptor in self._interceptors:
                call = interceptor.unary(method, call)
            return grpc.unary_unary_rpc_method_handler(call)
        if handler.unary_stream:
            stream = _stream(handler)
            for interceptor in self._interceptors:
                stream = interceptor.stream(method, stream)
            return grpc.unary_stream_rpc_method_handler(_written(stream))
        raise NotImplementedError(method)


def _unary(handler: Handler) -> UnaryCall:
    call: Any = handler.unary_unary
    deserialize: Any = handler.request_deserializer
    serialize = _serializer(handler)

    async def unary(request: bytes, context: Context) -> bytes:
        return serialize(await call(decoded(deserialize, request), context))

    return unary


def _stream(handler: Handler) -> StreamCall:
    stream: Any = handler.unary_stream
    deserialize: Any = handler.request_deserializer
    serialize = _serializer(handler)

    async def encoded(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        async with aclosing(stream(decoded(deserialize, request), context)) as responses:
            async for response in responses:
                yield serialize(response)

    return encoded


def _written(stream: StreamCall) -> Callable[[bytes, Context], Awaitable[None]]:
    async def written(request: bytes, context: Context) -> None:
        begun = False
        # Closed by us, also when the call is ended while a response is on its way: what
        # an interceptor has to say to that becomes the status.
        async with aclosing(stream(request, context)) as responses:
            async for response in responses:
                if not begun:
                    # Or no status could follow a first response that nobody takes.
                    await context.send_initial_metadata(())
                    begun = True
                await context.write(response)

    return written


def _serializer(handler: Handler) -> Callable[[Any], bytes]:
    """Gives what writes the responses; those that handlers have encoded are left as they are."""
    serialize: Any = handler.response_serializer

    def encoded(response: Message | bytes) -> bytes:
        return response if type(response) is bytes else serialize(response)

    return encoded


def decoded(deserialize: Callable[[bytes], Message], request: bytes) -> Message:
    """Decodes a request.

    Raises:
        InvalidRequest: It is no message.
    """
    try:
        return deserialize(request)
    except DecodeError as error:
        description = "is not a message of its type, or nests deeper than metadata may"
        raise InvalidRequest(FieldViolation("request", description)) from error
