"""The chain of interceptors: one ordered list, applied once to each method.

Interceptors see requests and responses as bytes. The innermost call decodes the request, runs
the servicer's handler, and encodes its responses.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from palaver_server.errors import FieldViolation, InvalidRequest
from palaver_server.services.encoding.encoded import Encoded

# The method of a servicer: takes a request and the context.
Handler: TypeAlias = Callable[[Any, Any], Any]

# Strings: at run time these classes are not generic.
GrpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"

UnaryCall: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
StreamCall: TypeAlias = Callable[[bytes, Context], AsyncGenerator[bytes, None]]


class Interceptor(Protocol):
    """One concern of every call.

    Methods are given by their full names, such as `/palaver.v1.SessionService/GetSession`.
    """

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wrap a method with one response."""
        ...

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wrap a method with a stream of responses."""
        ...


class InterceptorChain:
    """Runs every call of a method through the interceptors.

    Args:
        interceptors: Outermost first.
    """

    def __init__(self, interceptors: Sequence[Interceptor]) -> None:
        self._interceptors = tuple(reversed(interceptors))

    def wrap(self, method: MethodDescriptor, handler: Handler) -> GrpcHandler:
        """Return gRPC's handler of a method, which runs the servicer's behind the interceptors."""
        name = full_name(method)
        if method.client_streaming:
            raise NotImplementedError(name)
        if method.server_streaming:
            stream = _stream(method, handler)
            for interceptor in self._interceptors:
                stream = interceptor.stream(name, stream)
            return grpc.unary_stream_rpc_method_handler(_writing(stream))
        call = _unary(method, handler)
        for interceptor in self._interceptors:
            call = interceptor.unary(name, call)
        return grpc.unary_unary_rpc_method_handler(call)


def full_name(method: MethodDescriptor) -> str:
    """Return the name of a method in requests."""
    return f"/{method.containing_service.full_name}/{method.name}"


def request_decoder(method: MethodDescriptor) -> Callable[[bytes], Message]:
    """Return a function that decodes the requests of a method.

    It raises InvalidRequest for bytes that are no message of the method's type.
    """
    decode = GetMessageClass(method.input_type).FromString

    def decode_request(request: bytes) -> Message:
        try:
            return decode(request)
        except DecodeError as error:
            description = "must be a message of the method's type, nested at most 100 levels deep"
            raise InvalidRequest(FieldViolation("request", description)) from error

    return decode_request


def _encode(response: Message | Encoded[Any]) -> bytes:
    return response.data if isinstance(response, Encoded) else response.SerializeToString()


def _unary(method: MethodDescriptor, handler: Handler) -> UnaryCall:
    decode = request_decoder(method)

    async def unary(request: bytes, context: Context) -> bytes:
        return _encode(await handler(decode(request), context))

    return unary


def _stream(method: MethodDescriptor, handler: Handler) -> StreamCall:
    decode = request_decoder(method)

    async def stream(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
        async with aclosing(handler(decode(request), context)) as responses:
            async for response in responses:
                yield _encode(response)

    return stream


def _writing(stream: StreamCall) -> Callable[[bytes, Context], Awaitable[None]]:
    async def write_responses(request: bytes, context: Context) -> None:
        has_started = False
        # `aclosing`: a call cancelled during a write closes the interceptors' generators here,
        # so that the error they raise becomes the status.
        async with aclosing(stream(request, context)) as responses:
            async for response in responses:
                if not has_started:
                    # gRPC sends no status after a first response that the client does not
                    # take, unless the initial metadata went before.
                    await context.send_initial_metadata(())
                    has_started = True
                await context.write(response)

    return write_responses
