"""Spans of calls and of their SQL statements: names and statuses, never contents."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from opentelemetry import propagate, trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer
from psycopg import Error

from palaver_server.call_context import FAULTS, Call, Metadata, calls_served
from palaver_server.database.connection import Trace
from palaver_server.database.statement import Statement

_NANOSECONDS = 1_000_000_000


class CallSpans:
    """The spans of calls, each within its caller's trace."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, call: Call, metadata: Metadata) -> None:
        """Start the span of a call and attach it to the call."""
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
        """End the spans of calls."""
        for call in calls:
            span: Span = call.span
            span.set_attribute("rpc.response.status_code", call.code)
            if call.code in FAULTS:
                span.set_attribute("error.type", call.code)
                span.set_status(StatusCode.ERROR)
            span.end(int(call.ended * _NANOSECONDS))


def statement_trace(tracer: Tracer) -> Trace:
    """Return a trace that makes a span of a statement in each call that the statement serves."""

    @contextmanager
    def trace_statement(statement: Statement) -> Iterator[None]:
        spans = [
            _statement_span(tracer, call, statement)
            for call in calls_served()
            if call.span.is_recording()
        ]
        try:
            yield
        except Error as error:
            for span in spans:
                # The error's text is left out: it may quote contents.
                span.set_attribute("error.type", error.sqlstate or type(error).__name__)
                span.set_status(StatusCode.ERROR)
            raise
        finally:
            for span in spans:
                span.end()

    return trace_statement


def _statement_span(tracer: Tracer, call: Call, statement: Statement) -> Span:
    # The parameters are left out: they are contents.
    attributes = {"db.system.name": "postgresql", "db.query.text": statement.sql}
    within = trace.set_span_in_context(call.span)
    return tracer.start_span(statement.name, within, SpanKind.CLIENT, attributes)
