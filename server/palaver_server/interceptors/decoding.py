"""Decodes the requests of health and reflection, as the chain decodes those of our methods.

gRPC would take bytes that are no message for a bug of the server: `UNKNOWN`, and a traceback
in the log, for whoever reaches the port.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.message import Message

from palaver_server.errors import InvalidRequest
from palaver_server.interceptors.chain import Context, Handler, decoded
from palaver_server.interceptors.error_mapping import abort


def decoding(method: str, handler: Handler) -> Handler:
    """Wraps the handler of a method: requests that are no messages end with `INVALID_ARGUMENT`."""
    call: Any = handler.unary_unary or handler.unary_stream or handler.stream_stream
    decoded_call = _DecodedCall(call, handler.request_deserializer)
    serialize: Any = handler.response_serializer
    if handler.unary_unary:
        return grpc.unary_unary_rpc_method_handler(
            decoded_call.with_one, response_serializer=serialize
        )
    if handler.unary_stream:  # which writes its responses, and is no generator
        return grpc.unary_stream_rpc_method_handler(
            decoded_call.with_one, response_serializer=serialize
        )
    if handler.stream_stream:
        return grpc.stream_stream_rpc_method_handler(
            decoded_call.with_many, response_serializer=serialize
        )
    raise NotImplementedError(method)


class _DecodedCall:
    """A method that takes messages, as one that takes bytes."""

    def __init__(self, call: Any, deserialize: Any) -> None:
        self._call = call
        self._deserialize = deserialize

    async def with_one(self, request: bytes, context: Context) -> Any:
        return await self._call(await self._message(request, context), context)

    async def with_many(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[Any, None]:
        messages = self._messages(requests, context)
        async with aclosing(self._call(messages, context)) as responses:
            async for response in responses:
                yield response

    async def _messages(
        self, requests: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[Message, None]:
        async for request in requests:
            yield await self._message(request, context)

    async def _message(self, request: bytes, context: Context) -> Message:
        try:
            return decoded(self._deserialize, request)
        except InvalidRequest as error:
            return await abort(context, error)
