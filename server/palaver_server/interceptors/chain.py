"""The chain of interceptors: one ordered list, applied once to each method.

The chain starts the interceptors, one of which reads the request, decodes it, runs the servicer's
handler, and encodes and sends its responses. When the call ends, the interceptors' hooks run in
reverse order.

All methods are registered as methods with a stream of requests, which is the same on the wire. For
a method with one request, gRPC reads the request before it runs the handler: without a deadline,
before the caller is authenticated, and regardless of its size.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from palaver_server.interceptors.error_mapping import StatusError, send_status
from palaver_server.interceptors.interceptor import (
    CallHooks,
    Context,
    IncomingCall,
    Interceptor,
    StartCall,
    full_name,
)
from palaver_server.interceptors.large_requests import (
    LargeRequest,
    LargeRequestDecoder,
    malformed_request,
)
from palaver_server.offload import MAX_PARSED_BYTES
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.limits import MAX_METADATA_BYTES

# The method of a servicer: takes a request and the context.
Handler: TypeAlias = Callable[[Any, Any], Any]

# A string: at run time this class is not generic.
GrpcHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


# Takes the request from a call, and decodes it.
_Decode: TypeAlias = Callable[[IncomingCall], Message | LargeRequest]


class InterceptorChain:
    """The interceptors of every call, composed once for each method.

    Args:
        interceptors: Outermost first. One of them reads the request.
        max_metadata_bytes: Maximum size of the metadata of sessions and users as JSON.
    """

    def __init__(
        self,
        interceptors: Sequence[Interceptor],
        *,
        max_metadata_bytes: int = MAX_METADATA_BYTES,
    ) -> None:
        self._interceptors = tuple(interceptors)
        self._max_metadata_bytes = max_metadata_bytes

    def wrap(self, method: MethodDescriptor, handler: Handler) -> GrpcHandler:
        """Return gRPC's handler of a method, which runs the servicer's behind the interceptors."""
        if method.client_streaming:
            raise NotImplementedError(full_name(method))
        starts = [interceptor.intercept(method) for interceptor in self._interceptors]
        given = tuple(start for start in starts if start is not None)
        decode = _request_decoder(method, self._max_metadata_bytes)
        if method.server_streaming:
            return grpc.stream_stream_rpc_method_handler(_stream(decode, handler, given))
        return grpc.stream_unary_rpc_method_handler(_unary(decode, handler, given))


def _unary(
    decode: _Decode, handler: Handler, starts: Sequence[StartCall | CallHooks]
) -> Callable[[Any, Context], Awaitable[bytes]]:
    async def call(_requests: Any, context: Context) -> bytes:
        hooks = _closed_at_end()
        incoming = IncomingCall(context)
        try:
            await _start(starts, hooks, incoming)
            request = decode(incoming)
            handling = handler(request, context)
            del request  # the handler alone holds it
            response = await _encode(await handling)
            incoming.responses = 1
            incoming.response_bytes = len(response)
            for hook in hooks:
                if hook.sees_responses:
                    hook.before_send(response)
        except BaseException as error:  # noqa: BLE001 - the hooks decide what the call ends with
            await _end_with(error, hooks, context)
        for hook in reversed(hooks):
            if hook.sees_end:
                hook.end(None)
        return response

    return call


def _stream(
    decode: _Decode, handler: Handler, starts: Sequence[StartCall | CallHooks]
) -> Callable[[Any, Context], Awaitable[None]]:
    async def call(_requests: Any, context: Context) -> None:
        hooks = _closed_at_end()
        incoming = IncomingCall(context)
        is_first = True
        try:
            await _start(starts, hooks, incoming)
            async with aclosing(handler(decode(incoming), context)) as responses:
                async for message in responses:
                    response = await _encode(message)
                    incoming.responses += 1
                    incoming.response_bytes += len(response)
                    for hook in hooks:
                        if hook.sees_responses:
                            hook.before_send(response)
                    await _write(response, context, is_first=is_first)
                    is_first = False
                    for hook in hooks:
                        if hook.sees_responses:
                            hook.after_send()
        except BaseException as error:  # noqa: BLE001 - the hooks decide what the call ends with
            await _end_with(error, hooks, context)
        for hook in reversed(hooks):
            if hook.sees_end:
                hook.end(None)

    return call


def _closed_at_end() -> list[CallHooks]:
    """Return a list for the hooks of the current call; they are closed when its task ends.

    The task sends what the handler returns, and ends when that has left. Not gRPC's own callback:
    its reference to the context would keep an abandoned call in memory.
    """
    hooks: list[CallHooks] = []

    def close(_task: Any) -> None:
        for hook in reversed(hooks):
            if hook.sees_close:
                hook.close()

    task = asyncio.current_task()
    if task is not None:
        task.add_done_callback(close)
    return hooks


async def _write(response: bytes, context: Context, *, is_first: bool) -> None:
    """Write a response of a stream.

    Raises:
        CancelledError: The client has left.
    """
    try:
        if is_first:
            # gRPC sends no status after a first response that the client does not take, unless
            # the initial metadata went before.
            await context.send_initial_metadata(())
        await context.write(response)
    except Exception as error:  # gRPC does not export the class: a batch of its core failed
        raise CancelledError from error


async def _start(
    starts: Sequence[StartCall | CallHooks], hooks: list[CallHooks], incoming: IncomingCall
) -> None:
    """Start the interceptors in order, and collect their hooks, even if one refuses the call."""
    for start in starts:
        started = start if isinstance(start, CallHooks) else start(incoming)
        if started is not None and not isinstance(started, CallHooks):
            started = await started
        if started is not None:
            hooks.append(started)


async def _end_with(
    raised: BaseException, hooks: Sequence[CallHooks], context: Context
) -> NoReturn:
    """End a call with the error that the hooks make of the raised one."""
    error = raised
    for hook in reversed(hooks):
        error = hook.fail(error)
        hook.end(error)
    _drop_tracebacks(raised)
    try:
        if isinstance(error, StatusError):
            await send_status(context, error)
        raise error
    finally:
        del raised, error  # a cycle of error and traceback would keep an abandoned call in memory


def _drop_tracebacks(error: BaseException | None) -> None:
    """Drop the tracebacks of an error and of its causes.

    Their frames hold the request, and often the future that holds the error: such a cycle would
    stay in memory until a full garbage collection.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def _request_decoder(method: MethodDescriptor, max_metadata_bytes: int) -> _Decode:
    """Return a function that takes the request from a call, and decodes it.

    The function raises InvalidRequest.
    """
    decode = GetMessageClass(method.input_type).FromString
    large_requests = LargeRequestDecoder(method.input_type, max_metadata_bytes)

    def decode_request(incoming: IncomingCall) -> Message | LargeRequest:
        request, incoming.request = incoming.request, b""
        if len(request) > MAX_PARSED_BYTES:
            return large_requests.decode(request)
        try:
            return decode(request)
        except DecodeError as error:
            raise malformed_request() from error

    return decode_request


async def _encode(response: Message | Encoded[Any]) -> bytes:
    if not isinstance(response, Encoded):
        return response.SerializeToString()
    return await response.encode() if response.data is None else response.data
