"""Observation: records the duration, sizes and status of each call, and reports them."""

import asyncio
import random
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from time import perf_counter, time
from typing import TypeAlias, cast

from palaver_server.call_context import Call, Metadata, running_call
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall

# Called when a call starts, with the metadata that the client sent.
OnStart: TypeAlias = Callable[[Call, Metadata], None]

# Called with calls that have ended.
OnEnd: TypeAlias = Callable[[Sequence[Call]], None]

REQUEST_ID = "x-request-id"

_REQUEST_ID = re.compile(r"[!-~]{1,128}")
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")

# Reporting calls in batches costs a third of reporting them one by one. The limits keep the log
# current, and keep one report from delaying running calls.
_MAX_UNREPORTED_CALLS = 32
_MAX_UNREPORTED_SECONDS = 0.1


class Observation:
    """Observes every call, and returns its request ID in the trailing metadata.

    Args:
        on_start: Called in this order when a call starts.
        on_end: Called in this order soon after calls have ended.
    """

    def __init__(self, on_start: Sequence[OnStart], on_end: Sequence[OnEnd]) -> None:
        self._on_start = tuple(on_start)
        self._on_end = tuple(on_end)
        self._ended: list[Call] = []

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wrap a method with one response."""

        async def observed(request: bytes, context: Context) -> bytes:
            record = self._start(method, request, context)
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
        """Wrap a method with a stream of responses."""

        async def observed(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            record = self._start(method, request, context)
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
        """Report the calls that have ended."""
        ended, self._ended = self._ended, []
        if ended:
            for on_end in self._on_end:
                on_end(ended)

    def _start(self, method: str, request: bytes, context: Context) -> Call:
        metadata = cast("Metadata", context.invocation_metadata() or ())
        request_id, trace_id = _ids(metadata)
        call = Call(method, request_id, trace_id, context.peer(), len(request), perf_counter())
        running_call.set(call)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        for on_start in self._on_start:
            on_start(call, metadata)
        return call

    def _end(self, call: Call) -> None:
        call.seconds = perf_counter() - call.started
        call.ended = time()
        self._ended.append(call)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(_MAX_UNREPORTED_SECONDS, self.report)
        elif len(self._ended) == _MAX_UNREPORTED_CALLS:
            asyncio.get_running_loop().call_soon(self.report)  # after this call's response


def _code(call: Call, context: Context, error: BaseException) -> str:
    """Return the name of the status of a call that raised an error."""
    code = context.code()
    if code is not None:
        return code.name
    # GeneratorExit: gRPC closes a stream whose client left while a response was being sent.
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "DEADLINE_EXCEEDED" if _is_overdue(call, context) else "CANCELLED"
    return "UNKNOWN"


def _is_overdue(call: Call, context: Context) -> bool:
    """Return whether a cancelled call had reached its deadline.

    The client sees its deadline pass first, and cancels the call. The server's deadline is
    later, by the travel time of the request and the rounding of its timeout.
    """
    remaining: float | None = context.time_remaining()
    return remaining is not None and remaining <= 0.05 + 0.02 * (perf_counter() - call.started)


def _ids(metadata: Metadata) -> tuple[str, str]:
    """Return the caller's request ID, or by default a new one, and the trace ID, or ''."""
    request_id = trace_id = ""
    for key, value in metadata:
        if key == REQUEST_ID and _REQUEST_ID.fullmatch(str(value)):
            request_id = str(value)
        elif key == "traceparent" and (parent := _TRACE_PARENT.fullmatch(str(value))):
            trace_id = parent[1]
    return request_id or f"{random.getrandbits(128):032x}", trace_id
