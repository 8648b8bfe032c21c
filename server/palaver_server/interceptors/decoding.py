"""Decoding of requests for health and reflection, which bypass the chain of interceptors.

gRPC itself treats bytes that are no message as a bug of the server: it answers UNKNOWN and logs
a traceback, for anyone who can reach the port.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from palaver_server.errors import FieldViolation, InvalidRequest
from palaver_server.interceptors.chain import GrpcHandler, Handler
from palaver_server.interceptors.error_mapping import send_status, status_error
from palaver_server.interceptors.interceptor import Context
from palaver_server.interceptors.large_requests import message_decoder

# The requests have a name. Anyone who can reach the port may send them, and reflection returns
# its request.
_MAX_REQUEST_BYTES = 4096


def decode_requests(method: MethodDescriptor, handler: Handler) -> GrpcHandler:
    """Return gRPC's handler of a method: a malformed request ends with INVALID_ARGUMENT."""
    call = _DecodedCall(method, handler)
    encode: Any = GetMessageClass(method.output_type).SerializeToString
    match method.client_streaming, method.server_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler(call.with_one, response_serializer=encode)
        case False, True:  # the handler writes its responses, and is no generator
            return grpc.unary_stream_rpc_method_handler(call.with_one, response_serializer=encode)
        case True, True:
            return grpc.stream_stream_rpc_method_handler(call.with_many, response_serializer=encode)
        case _:
            raise NotImplementedError(method.full_name)


class _DecodedCall:
    """A handler of messages as a handler of bytes."""

    def __init__(self, method: MethodDescriptor, handler: Handler) -> None:
        self._decode = message_decoder(method.input_type)
        self._handler = handler

    async def with_one(self, request: bytes, context: Context) -> Any:
        return await self._handler(await self._message(request, context), context)

    async def with_many(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[Any, None]:
        messages = self._messages(requests, context)
        async with aclosing(self._handler(messages, context)) as responses:
            async for response in responses:
                yield response

    async def _messages(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[Message, None]:
        async for request in requests:
            yield await self._message(request, context)

    async def _message(self, request: bytes, context: Context) -> Message:
        try:
            _check_size(request)
            return self._decode(request)
        except InvalidRequest as error:
            return await send_status(context, status_error(error))


def _check_size(request: bytes) -> None:
    if len(request) > _MAX_REQUEST_BYTES:
        description = f"must have at most {_MAX_REQUEST_BYTES} bytes; got {len(request)}"
        raise InvalidRequest(FieldViolation("request", description))
