"""Observes each call: times it, weighs it, and reports how it ended."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from time import perf_counter, time
from typing import TypeAlias, cast

from palaver_server.call_context import Call, Metadata, running_call
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall

# Sees a call begin, with what its caller sent beside the request.
Begin: TypeAlias = Callable[[Call, Metadata], None]

# Is told of calls that have ended.
End: TypeAlias = Callable[[Sequence[Call]], None]

REQUEST_ID = "x-request-id"

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Reported many at once, calls cost a third of what they cost one by one. But nobody is to
# wait long for a line, nor a call for the lines of too many others.
_MOST_UNREPORTED = 32
_SECONDS_UNREPORTED = 0.1


class Observation:
    """Has every call observed, and gives the caller the call's request id.

    Args:
        begins: What sees each call begin, in this order.
        ends: What is told of the calls that have ended, in this order, a moment later.
    """

    def __init__(self, begins: Sequence[Begin], ends: Sequence[End]) -> None:
        self._begins = tuple(begins)
        self._ends = tuple(ends)
        self._ended: list[Call] = []

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""

        async def observed(request: bytes, context: Context) -> bytes:
            record = self._begin(method, request, context)
            try:
                response = await call(request, context)
                record.responses = 1
                record.response_bytes = len(response)
                return response
            except BaseException as error:
                record.code = _code(record, context, error)
                raise
            finally:
                self._end(record)

        return observed

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wraps a method with a stream of responses."""

        async def observed(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            record = self._begin(method, request, context)
            try:
                async with aclosing(call(request, context)) as responses:
                    async for response in responses:
                        record.responses += 1
                        record.response_bytes += len(response)
                        yield response
            except BaseException as error:
                record.code = _code(record, context, error)
                raise
            finally:
                self._end(record)

        return observed

    def report(self) -> None:
        """Reports the calls that have ended."""
        ended, self._ended = self._ended, []
        if ended:
            for end in self._ends:
                end(ended)

    def _begin(self, method: str, request: bytes, context: Context) -> Call:
        metadata = cast("Metadata", context.invocation_metadata() or ())
        request_id, trace_id = _ids(metadata)
        call = Call(method, request_id, trace_id, context.peer(), len(request), perf_counter())
        running_call.set(call)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        for begin in self._begins:
            begin(call, metadata)
        return call

    def _end(self, call: Call) -> None:
        call.seconds = perf_counter() - call.started
        call.ended = time()
        self._ended.append(call)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(_SECONDS_UNREPORTED, self.report)
        elif len(self._ended) == _MOST_UNREPORTED:
            asyncio.get_running_loop().call_soon(self.report)  # when this call is answered


def _code(call: Call, context: Context, error: BaseException) -> str:
    """Names the status that a call ends with, since it raised this."""
    code = context.code()
    if code is not None:
        return code.name
    # A stream whose caller left while a response was on its way to it is just closed.
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "DEADLINE_EXCEEDED" if _is_overdue(call, context) else "CANCELLED"
    return "UNKNOWN"


def _is_overdue(call: Call, context: Context) -> bool:
    """Tells whether a call that was cancelled came to its deadline.

    The caller sees its deadline pass first, and cancels. Here it lies later, by the time
    that the request travelled, and by the rounding in which it came.
    """
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0.05 + 0.02 * (perf_counter() - call.started)


def _ids(metadata: Metadata) -> tuple[str, str]:
    """Gives the request id and the trace id that the caller sent; makes the first if need be."""
    request_id = trace_id = ""
    for key, value in metadata:
        if key == REQUEST_ID and _REQUEST_ID.fullmatch(str(value)):
            request_id = str(value)
        elif key == "traceparent" and (parent := _TRACE_PARENT.fullmatch(str(value))):
            trace_id = parent[1]
    return request_id or f"{random.getrandbits(128):032x}", trace_id
