"""Traces from the caller to the SQL statement, as a collector receives them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import psycopg
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from palaver_server.store.sessions import GET_SESSION
from tests.support.client import Client, refused, struct
from tests.support.palaver_process import RunPalaver, Serve
from tests.support.processes import PalaverProcess

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT_ID = "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-01"),)
NOT_SAMPLED = (("traceparent", f"00-{TRACE_ID}-{PARENT_ID}-00"),)


@dataclass
class Collector(TraceServiceServicer):
    """A trace collector that accepts OTLP."""

    endpoint: str = ""
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    def Export(  # noqa: N802
        self, request: ExportTraceServiceRequest, _context: grpc.ServicerContext
    ) -> ExportTraceServiceResponse:
        self.requests.append(request)
        return ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    @property
    def service_names(self) -> set[str]:
        resources = [one.resource for request in self.requests for one in request.resource_spans]
        return {str(attributes(resource)["service.name"]) for resource in resources}


def attributes(of: Any) -> dict[str, str]:
    return {one.key: one.value.string_value for one in of.attributes}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with ThreadPoolExecutor() as threads:
        server = grpc.server(threads)
        collector = Collector()
        add_to_server: Any = add_TraceServiceServicer_to_server
        add_to_server(collector, server)
        collector.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield collector
        server.stop(None).wait()


@pytest.fixture
def traced(serve: Serve, database_url: str, collector: Collector) -> Callable[..., Any]:
    """Run a server that exports traces during a block, and has exported all of them after it."""

    @contextmanager
    def run(**variables: str) -> Iterator[tuple[PalaverProcess, Client]]:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **variables}
        palaver, client = serve(PALAVER_DATABASE_URL=database_url, **variables)
        yield palaver, client
        assert palaver.stop() == 0

    return run


def test_trace_spans_caller_call_and_statement(
    traced: Callable[..., Any], collector: Collector
) -> None:
    with traced() as (palaver, client):
        client.add_session("s")
        client.sessions.GetSession(GetSessionRequest(session_id="s"), metadata=SAMPLED)

    (call,) = collector.named("palaver.v1.SessionService/GetSession")
    (statement,) = collector.named("sessions.get")
    assert call.trace_id.hex() == statement.trace_id.hex() == TRACE_ID
    assert call.parent_span_id.hex() == PARENT_ID
    assert statement.parent_span_id == call.span_id
    assert (call.kind, statement.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert attributes(call)["rpc.response.status_code"] == "OK"
    assert attributes(statement) == {
        "db.system.name": "postgresql", "db.query.text": GET_SESSION.sql
    }  # fmt: skip
    assert call.start_time_unix_nano <= statement.start_time_unix_nano
    assert statement.end_time_unix_nano <= call.end_time_unix_nano
    assert "code=OK duration_ms" in palaver.output
    assert f"trace_id={TRACE_ID}" in palaver.output
    assert collector.service_names == {"palaver"}


def test_trace_without_caller_starts_at_call_and_is_logged(
    traced: Callable[..., Any], collector: Collector
) -> None:
    with traced(OTEL_SERVICE_NAME="memory-eu") as (palaver, client):
        client.add_session("s")

    (call,) = collector.named("palaver.v1.SessionService/AddSession")
    assert call.parent_span_id == b""
    assert f"trace_id={call.trace_id.hex()}" in palaver.output
    assert collector.service_names == {"memory-eu"}


def test_trace_of_stream_has_statement_per_page(
    traced: Callable[..., Any], collector: Collector
) -> None:
    with traced() as (_, client):
        client.add("s", *["hello"] * 5)
        request = StreamMessagesRequest(session_id="s", chunk_size=2)
        assert len(list(client.memory.StreamMessages(request))) == 3

    (call,) = collector.named("palaver.v1.MemoryService/StreamMessages")
    statements = [span for span in collector.spans if span.parent_span_id == call.span_id]
    assert [span.name for span in statements].count("messages.list") >= 3
    assert {span.name for span in statements} == {"sessions.get", "messages.list"}


def test_trace_not_sampled_by_caller_is_not_recorded(
    traced: Callable[..., Any], collector: Collector
) -> None:
    with traced() as (palaver, client):
        client.sessions.AddSession(AddSessionRequest(session_id="s"), metadata=NOT_SAMPLED)

    assert collector.spans == []
    assert f"trace_id={TRACE_ID}" in palaver.output


def test_trace_of_failed_statement_shows_no_data(
    traced: Callable[..., Any], collector: Collector, database: psycopg.Connection[Any]
) -> None:
    hidden = struct(plan="MARKER-value")
    rule = "CHECK (content <> 'MARKER-content') NOT VALID"
    database.execute(f"ALTER TABLE messages ADD CONSTRAINT rule {rule}")
    message = Message(role="MARKER-role", content="MARKER-content", metadata=hidden)
    with traced() as (palaver, client):
        client.add_session("s", metadata=hidden)
        with refused(grpc.StatusCode.INTERNAL):
            client.memory.AddMemory(
                AddMemoryRequest(session_id="s", messages=[message]),
                metadata=(("authorization", "MARKER-token"),),
            )
        with refused(grpc.StatusCode.NOT_FOUND):
            client.get_session("none")

    (call,) = collector.named("palaver.v1.MemoryService/AddMemory")
    (statement,) = [span for span in collector.spans if span.parent_span_id == call.span_id]
    assert attributes(call)["error.type"] == "INTERNAL"
    assert attributes(statement)["error.type"] == "23514"  # check_violation
    assert call.status.code == statement.status.code == Status.STATUS_CODE_ERROR
    (missing,) = collector.named("palaver.v1.SessionService/GetSession")
    assert missing.status.code == Status.STATUS_CODE_UNSET
    assert "MARKER" not in str(collector.requests)
    assert "MARKER" not in palaver.output


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_trace_export_is_off_by_standard_variables(
    variables: dict[str, str], traced: Callable[..., Any], collector: Collector
) -> None:
    with traced(**variables) as (_, client):
        client.add_session("s")

    assert collector.requests == []


def test_trace_exporter_that_is_unknown_is_refused(
    run_palaver: RunPalaver, database_url: str
) -> None:
    ended = run_palaver("serve", PALAVER_DATABASE_URL=database_url, OTEL_TRACES_EXPORTER="pigeon")

    assert ended.status == 1
    assert "Traceback" not in ended.printed
    assert "must name installed exporters (console, otlp" in ended.printed
