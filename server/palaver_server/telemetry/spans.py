"""The spans of calls and of their SQL statements, with names and statuses, never contents."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from psycopg import Error

from palaver_server.call_context import FAULTS, Call, Metadata, calls_served
from palaver_server.database.connection import Trace

# Statements run in methods of the stores, which name their spans; by way of a connection.
_STORES = tuple(f"palaver_server.{name}." for name in ("store", "search", "embedding", "purge"))
_CONNECTION = "palaver_server.database.connection"

_NANOSECONDS = 1_000_000_000


class CallSpans:
    """Makes a span of each call, within the trace of the caller."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, call: Call, metadata: Metadata) -> None:
        """Begins the span of a call, in the call's context."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        method = call.method.removeprefix("/")
        attributes = {
            "rpc.system.name": "grpc",
            "rpc.method": method,
            "palaver.request_id": call.request_id,
        }
        call.span = span = self._tracer.start_span(
            method,
            propagate.extract(carrier),
            SpanKind.SERVER,
            attributes,
        )
        call.trace_id = trace.format_trace_id(span.get_span_context().trace_id)

    def end(self, calls: Sequence[Call]) -> None:
        """Ends the spans of calls."""
        for call in calls:
            span: Span = call.span
            span.set_attribute("rpc.response.status_code", call.code)
            if call.code in FAULTS:
                span.set_attribute("error.type", call.code)
                span.set_status(StatusCode.ERROR)
            span.end(int(call.ended * _NANOSECONDS))


def statement_trace(tracer: Tracer) -> Trace:
    """Makes what makes a span of each statement while it runs, in each call it serves."""

    @contextmanager
    def trace_statement(statement: str) -> Iterator[None]:
        spans = [
            _statement_span(tracer, call, statement)
            for call in calls_served()
            if call.span.is_recording()
        ]
        try:
            yield
        except Error as error:
            for span in spans:
                # Not its text: that may quote contents.
                span.set_attribute("error.type", error.sqlstate or type(error).__name__)
                span.set_status(StatusCode.ERROR)
            raise
        finally:
            for span in spans:
                span.end()

    return trace_statement


def _statement_span(tracer: Tracer, call: Call, statement: str) -> Span:
    # Without its parameters the statement tells nothing of what is stored.
    attributes = {"db.system.name": "postgresql", "db.query.text": statement}
    within = trace.set_span_in_context(call.span)
    return tracer.start_span(_store_method(), within, SpanKind.CLIENT, attributes)


def _store_method() -> str:
    """Names the method of a store that runs the statement, such as `SessionStore.get_session`."""
    frame = sys._getframe(1)  # noqa: SLF001 - as `logging` finds its caller
    while frame.f_back and not _is_of_store(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    return frame.f_code.co_qualname


def _is_of_store(module: str) -> bool:
    return module.startswith(_STORES) and module != _CONNECTION
