"""The record of the current call, for logs, metrics and traces."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

# The metadata that a client sends with a request.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

# Status codes of failures of the server or its database; callers cause the others.
FAULTS = frozenset({"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"})


@dataclass(slots=True)
class Call:
    """A call of one of Palaver's methods. It contains nothing of the request and the responses.

    Attributes:
        method: The full name, such as `/palaver.v1.SessionService/GetSession`.
        request_id: The ID that the caller sent, or a generated one.
        trace_id: The ID of its trace in hexadecimal digits; empty without one.
        peer: The client's address in gRPC's form.
        request_bytes: Size of the request; 0 until it was read.
        started: Its start by `time.perf_counter`.
        principal: The name of the authenticated principal; empty without one.
        responses: Number of responses.
        response_bytes: Size of all responses.
        code: The name of its status, such as `NOT_FOUND`.
        seconds: Its duration.
        ended: Its end in seconds since 1970.
        span: Its span in a trace.
    """

    method: str
    request_id: str
    trace_id: str
    peer: str
    request_bytes: int
    started: float
    principal: str = ""
    responses: int = 0
    response_bytes: int = 0
    code: str = "OK"
    seconds: float = 0.0
    ended: float = 0.0
    span: Any = None


# Authentication sets the principal in it; log records take the request ID from it.
running_call: ContextVar[Call] = ContextVar("running_call")

# The calls that share the statement being run.
sharing_calls: ContextVar[Sequence[Call]] = ContextVar("sharing_calls")


def calls_served() -> Sequence[Call]:
    """Return the calls that the current work is done for."""
    call = running_call.get(None)
    return sharing_calls.get((call,) if call else ())
