"""Decoding of requests for health and reflection, which bypass the chain of interceptors.

gRPC itself treats bytes that are no message as a bug of the server: it answers UNKNOWN and logs
a traceback, for anyone who can reach the port.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar
from weakref import WeakSet

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc.aio import EOF

from palaver_server.errors import (
    DeadlineExceeded,
    FieldViolation,
    InvalidRequest,
    PalaverError,
    TooManyCalls,
)
from palaver_server.interceptors.chain import GrpcHandler, Handler
from palaver_server.interceptors.error_mapping import send_status, status_error
from palaver_server.interceptors.interceptor import Context
from palaver_server.interceptors.large_requests import message_decoder
from palaver_server.interceptors.request_bytes import refuse_call_without_request

ResultT = TypeVar("ResultT")

# The requests have a name. Anyone who can reach the port may send them, and reflection returns
# its request.
_MAX_REQUEST_BYTES = 4096

# Each may take the size of the largest request in memory.
MAX_READS = 4


class RequestDecoder:
    """Makes gRPC's handlers of methods: a malformed request ends with INVALID_ARGUMENT.

    Callers have no credential, by which requests being read could be shared fairly. So there are at
    most a few, and a new one ends the oldest, which has probably stalled.

    Args:
        seconds: How long a request may take to arrive.
    """

    def __init__(self, *, seconds: float) -> None:
        self._reads = _Reads(seconds)

    def wrap(self, method: MethodDescriptor, handler: Handler) -> GrpcHandler:
        """Return gRPC's handler of a method."""
        call = _DecodedCall(method, handler, self._reads)
        encode: Any = GetMessageClass(method.output_type).SerializeToString
        match method.client_streaming, method.server_streaming:
            case False, False:
                return grpc.stream_unary_rpc_method_handler(
                    call.with_one, response_serializer=encode
                )
            case False, True:  # the handler writes its responses, and is no generator
                return grpc.stream_stream_rpc_method_handler(
                    call.with_one, response_serializer=encode
                )
            case True, True:
                return grpc.stream_stream_rpc_method_handler(
                    call.with_many, response_serializer=encode
                )
            case _:
                raise NotImplementedError(method.full_name)


class _Reads:
    """The requests that are being read."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._running: OrderedDict[asyncio.Task[Any], None] = OrderedDict()  # oldest first
        self._ended: WeakSet[asyncio.Task[Any]] = WeakSet()

    async def read(self, context: Context) -> bytes | None:
        """Return the next request of a call; None at their end.

        Raises:
            DeadlineExceeded: It did not arrive in time.
            TooManyCalls: It had not arrived when too many others were to be read.
        """
        if len(self._running) == MAX_READS:
            oldest, _ = self._running.popitem(last=False)
            self._ended.add(oldest)
            oldest.cancel()
        task = asyncio.current_task()
        if task is None:
            raise AssertionError("gRPC runs a call in a task")
        self._running[task] = None
        try:
            async with asyncio.timeout(self._seconds):
                request = await context.read()
        except TimeoutError:
            raise DeadlineExceeded from None
        except asyncio.CancelledError:
            if task in self._ended:
                raise TooManyCalls from None
            raise
        finally:
            self._running.pop(task, None)
        # The stubs do not know the end.
        return None if request is EOF else request  # type: ignore[comparison-overlap]


class _DecodedCall:
    """A handler of messages as a handler of bytes."""

    def __init__(self, method: MethodDescriptor, handler: Handler, reads: _Reads) -> None:
        self._decode = message_decoder(method.input_type)
        self._handler = handler
        self._reads = reads

    async def with_one(self, _requests: Any, context: Context) -> Any:
        return await self._handler(await _answered(self._only(context), context), context)

    async def with_many(self, _requests: Any, context: Context) -> AsyncGenerator[Any, None]:
        messages = self._messages(context)
        async with aclosing(self._handler(messages, context)) as responses:
            async for response in responses:
                yield response

    async def _messages(self, context: Context) -> AsyncGenerator[Message, None]:
        while (message := await _answered(self._next(context), context)) is not None:
            yield message

    async def _only(self, context: Context) -> Message:
        message = await self._next(context)
        if message is None:
            await refuse_call_without_request()
        return message

    async def _next(self, context: Context) -> Message | None:
        request = await self._reads.read(context)
        if request is None:
            return None
        _check_size(request)
        return self._decode(request)


async def _answered(work: Coroutine[Any, Any, ResultT], context: Context) -> ResultT:
    """Return the result of some work; end the call with the status of its error."""
    try:
        return await work
    except PalaverError as error:
        return await send_status(context, status_error(error))


def _check_size(request: bytes) -> None:
    if len(request) > _MAX_REQUEST_BYTES:
        description = f"must have at most {_MAX_REQUEST_BYTES} bytes; got {len(request)}"
        raise InvalidRequest(FieldViolation("request", description))
