"""Observation: records the duration, sizes and status of each call, and reports them."""

import asyncio
import random
import re
from collections.abc import Callable, Sequence
from time import perf_counter, time
from typing import TypeAlias, cast

from google.protobuf.descriptor import MethodDescriptor

from palaver_server.call_context import Call, Metadata, running_call
from palaver_server.interceptors.error_mapping import StatusError
from palaver_server.interceptors.interceptor import (
    CallHooks,
    Context,
    IncomingCall,
    StartCall,
    full_name,
)

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
    """The interceptor that records calls, and returns request IDs in the trailing metadata.

    Args:
        on_start: Called in this order when a call starts.
        on_end: Called in this order soon after calls have ended.
    """

    def __init__(self, on_start: Sequence[OnStart], on_end: Sequence[OnEnd]) -> None:
        self._on_start = tuple(on_start)
        self._on_end = tuple(on_end)
        self._ended: list[Call] = []

    def intercept(self, method: MethodDescriptor) -> StartCall:
        """Return a function that starts the record of a call."""
        name = full_name(method)

        def start(call: IncomingCall) -> CallHooks:
            return _ObservedCall(self, self._start(name, call.context), call)

        return start

    def report(self) -> None:
        """Report the calls that have ended."""
        ended, self._ended = self._ended, []
        if ended:
            for on_end in self._on_end:
                on_end(ended)

    def _start(self, method: str, context: Context) -> Call:
        metadata = cast("Metadata", context.invocation_metadata() or ())
        request_id, trace_id = _ids(metadata)
        call = Call(method, request_id, trace_id, context.peer(), 0, perf_counter())
        running_call.set(call)
        context.set_trailing_metadata(((REQUEST_ID, request_id),))
        for on_start in self._on_start:
            on_start(call, metadata)
        return call

    def end(self, call: Call) -> None:
        """Complete the record of a call, and report it soon."""
        call.seconds = perf_counter() - call.started
        call.ended = time()
        self._ended.append(call)
        if len(self._ended) == 1:
            asyncio.get_running_loop().call_later(_MAX_UNREPORTED_SECONDS, self.report)
        elif len(self._ended) == _MAX_UNREPORTED_CALLS:
            asyncio.get_running_loop().call_soon(self.report)  # after this call's response


class _ObservedCall(CallHooks):
    """A call and its record."""

    __slots__ = ("_call", "_incoming", "_observation")

    def __init__(self, observation: Observation, call: Call, incoming: IncomingCall) -> None:
        self._observation = observation
        self._call = call
        self._incoming = incoming

    def end(self, error: BaseException | None) -> None:
        """Record the responses and the status."""
        call, incoming = self._call, self._incoming
        call.responses = incoming.responses
        call.response_bytes = incoming.response_bytes
        if error is not None:
            call.code = _code(call, incoming.context, error)
        self._observation.end(call)


def _code(call: Call, context: Context, error: BaseException) -> str:
    """Return the name of the status of a call that ended with an error."""
    if isinstance(error, StatusError):
        return error.status.code.name
    if isinstance(error, asyncio.CancelledError):
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
