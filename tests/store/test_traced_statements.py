"""Statements in traces: a call's trace has its statements, also those it shares with others."""

import asyncio
import importlib
import pkgutil
import re
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import palaver_server
from palaver_server.auth.access import EVERYTHING
from palaver_server.call_context import Call, running_call
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.errors import NotFound
from palaver_server.store.sessions import SessionStore
from palaver_server.telemetry.spans import CallSpans, statement_trace

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


@pytest.fixture
def traced_pool(provider: TracerProvider, database_url: str, run: Run) -> Iterator[Pool]:
    trace = statement_trace(provider.get_tracer("test"))
    pool = Pool(database_url, min_size=1, max_size=2, timeout=10, trace=trace)
    run(pool.open())
    yield pool
    run(pool.close())


def test_traced_statement_of_batch_is_in_trace_of_each_call(
    provider: TracerProvider, exporter: InMemorySpanExporter, traced_pool: Pool, run: Run
) -> None:
    store = SessionStore(traced_pool)
    spans = CallSpans(provider.get_tracer("test"))

    async def call(number: int) -> Call:
        made = Call("/palaver.v1.SessionService/GetSession", f"r{number}", "", "peer", 1, 0.0)
        running_call.set(made)
        spans.begin(made, ())
        with pytest.raises(NotFound):
            await store.get_session(EVERYTHING, f"s{number}")
        spans.end([made])
        return made

    async def together() -> list[Call]:
        return await asyncio.gather(*(call(number) for number in range(3)))

    before = traced_pool.stats().get("requests_num", 0)
    calls = run(together())

    assert traced_pool.stats()["requests_num"] - before == 1, "the calls did not share a statement"
    statements = [span for span in exporter.get_finished_spans() if span.kind.name == "CLIENT"]
    parents = [span.parent.span_id for span in statements if span.parent]
    assert sorted(parents) == sorted(call.span.get_span_context().span_id for call in calls)
    assert {span.name for span in statements} == {"sessions.get_many"}


def test_traced_statement_of_no_call_is_in_no_trace(
    exporter: InMemorySpanExporter, traced_pool: Pool, run: Run
) -> None:
    with pytest.raises(NotFound):
        run(SessionStore(traced_pool).get_session(EVERYTHING, "s"))

    assert exporter.get_finished_spans() == ()


def test_traced_statements_have_plain_names() -> None:
    names: set[str] = set()
    for module in pkgutil.walk_packages(palaver_server.__path__, "palaver_server."):
        if module.name.endswith("__main__"):
            continue
        loaded = importlib.import_module(module.name)
        for holder in (loaded, *(each for each in vars(loaded).values() if isinstance(each, type))):
            names |= {
                value.name
                for value in vars(holder).values()
                if isinstance(value, Statement | StatementTemplate)
            }

    assert {"sessions.get", "memory.append", "search.rank", "purge.messages"} <= names
    assert [name for name in names if not re.fullmatch(r"[a-z_]+\.[a-z_]+", name)] == []
