"""Plans of keyword search: in a scope it costs what the scope holds, else what matches."""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.access import EVERYTHING
from palaver_server.search.keyword_store import Hit, KeywordStore
from palaver_server.search.result_store import ResultStore
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import MessageKey
from tests.conftest import Run
from tests.support.plans import Explained, Plan, explained
from tests.support.searching import snapshot

pytestmark = pytest.mark.slow

USERS = 100
SESSIONS = 1_000
MESSAGES = 40  # of each session: 400 of each user, 40,000 in all
LIMIT = 10

A_FEW = 20

START = datetime(2026, 1, 1, tzinfo=UTC)

# Each message holds a word of all messages, one of every hundredth, and one of its own.
FILL = f"""
    INSERT INTO sessions (session_id, user_id, last_sequence)
    SELECT 's' || i, 'u' || i % {USERS}, {MESSAGES} FROM generate_series(1, {SESSIONS}) i;

    INSERT INTO messages (session_id, sequence, message_id, role, content, created_at, words)
    SELECT 's' || i, j, 'm' || j, CASE j % 2 WHEN 0 THEN 'user' ELSE 'assistant' END, content,
        timestamptz '2026-01-01Z' + (i * {MESSAGES} + j) * interval '1 second',
        to_tsvector('simple', content)
    FROM generate_series(1, {SESSIONS}) i, generate_series(1, {MESSAGES}) j,
        LATERAL (SELECT format('all h%s w%s', (i * {MESSAGES} + j) % 100, i * {MESSAGES} + j)
            AS content) contents;
"""


@pytest.fixture(scope="module")
def filled(postgres: str, template: str, run: Run) -> Iterator[Explained]:
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            pytest.skip("only a superuser may explain what others run")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = make_conninfo(postgres, dbname=name)
        with psycopg.connect(url, autocommit=True) as filling:
            filling.execute(FILL)
            filling.execute("VACUUM ANALYZE")
        with explained(url, run) as result:
            yield result
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def search(
    filled: Explained,
    run: Run,
    text: str,
    scope: Scope = ALL_MESSAGES,
    filter: MessageFilter = EVERY_MESSAGE,
) -> Plan:
    async def find() -> None:
        async with snapshot(filled.pool, scope) as connection:
            store = KeywordStore(connection)
            query = await store.read_text(EVERYTHING, text, scope=scope)
            await store.rank(EVERYTHING, query, limit=LIMIT, scope=scope, filter=filter)

    return filled.costliest(find)


@pytest.mark.parametrize("text", ["all", "h7", "w7777", "all h7 w7777"])
@pytest.mark.parametrize(
    ("scope", "holds"),
    [
        (Scope(session_id="s7"), MESSAGES),
        (Scope(user_id="u7"), MESSAGES * SESSIONS // USERS),
    ],
    ids=["session", "user"],
)
def test_plan_of_keyword_search_of_scope_costs_what_it_holds(
    filled: Explained, run: Run, text: str, scope: Scope, holds: int
) -> None:
    plan = search(filled, run, text, scope)

    assert "messages_words" not in plan.ways
    # Once to match the words, and once for neighbours of matches.
    assert plan.rows <= 3 * holds + SESSIONS // USERS * 4


def test_plan_of_keyword_search_of_all_uses_index(filled: Explained, run: Run) -> None:
    for text, matching in (("w7777 w8888", 2), ("h7 w8888", SESSIONS * MESSAGES // 100 + 1)):
        plan = search(filled, run, text)

        assert "messages_words" in plan.ways
        # Index entries and rows, and the neighbours of each.
        assert plan.rows <= 8 * matching + A_FEW


@pytest.mark.parametrize(
    "narrowed",
    [EVERY_MESSAGE, MessageFilter(created_before=START + timedelta(seconds=MESSAGES + LIMIT))],
    ids=["all", "before"],
)
def test_plan_of_search_without_text_uses_index_of_newest(
    filled: Explained, narrowed: MessageFilter
) -> None:
    async def find() -> None:
        async with snapshot(filled.pool) as connection:
            await ResultStore(connection).newest(EVERYTHING, limit=LIMIT, filter=narrowed)

    plan = filled.costliest(find)

    assert "messages_created_at" in plan.ways
    assert plan.rows <= 2 * (MESSAGES + LIMIT)


def test_plan_of_reading_results_uses_keys(filled: Explained) -> None:
    hits = [Hit(MessageKey(f"s{number}", number), 1) for number in range(1, LIMIT + 1)]

    async def read() -> None:
        async with snapshot(filled.pool) as connection:
            query = await KeywordStore(connection).read_text(EVERYTHING, "all")
            await ResultStore(connection).get_messages(EVERYTHING, hits, query)

    plan = filled.costliest(read)

    assert plan.rows == LIMIT
