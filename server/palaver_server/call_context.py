"""The call that runs: what is known of it, for logs, metrics and traces."""

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeAlias

# What a caller sends beside its request.
Metadata: TypeAlias = Sequence[tuple[str, str | bytes]]

# The codes that are the server's fault, or its database's: others are the callers' business.
FAULTS = frozenset({"DATA_LOSS", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN"})


@dataclass(slots=True)
class Call:
    """A call of one of our methods. It holds nothing of what the request or the response says.

    Attributes:
        method: The full name, such as `/palaver.v1.SessionService/GetSession`.
        request_id: The caller's, or one that was made for it.
        trace_id: Of the trace that it belongs to, in hex; empty if there is none.
        peer: The caller's address, as gRPC writes it.
        request_bytes: The size of the request.
        started: When it began, by the clock that `time.perf_counter` reads.
        principal: The name under which the caller was authenticated; empty if it was not.
        responses: How many were given.
        response_bytes: The size of all of them.
        code: The name of the status with which it ended, such as `NOT_FOUND`.
        seconds: How long it took.
        ended: When it ended, in seconds since 1970.
        span: What a trace keeps of it.
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


# Authentication notes the principal in it; logs take the request id from it.
running_call: ContextVar[Call] = ContextVar("running_call")

# For whom a statement is run that several calls share.
sharing_calls: ContextVar[Sequence[Call]] = ContextVar("sharing_calls")


def calls_served() -> Sequence[Call]:
    """Gives the calls that what runs now is done for."""
    call = running_call.get(None)
    return sharing_calls.get((call,) if call else ())
