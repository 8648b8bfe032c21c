"""Plans with an access scope evaluate a metadata path only on rows that the caller may see."""

import re
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.access import Access
from palaver_server.database.paging import KeyRange
from palaver_server.database.pool import Pool
from palaver_server.embedding.models import VectorSpace, prepare_model
from palaver_server.embedding.vector_store import VectorStore
from palaver_server.search.keyword_store import KeywordStore
from palaver_server.search.result_store import ResultStore
from palaver_server.store.message_filter import ALL_MESSAGES, MessageFilter, Scope
from palaver_server.store.sessions import SessionFilter, SessionStore
from tests.conftest import Run
from tests.support.plans import Explained, Plan, explained
from tests.support.searching import snapshot

pytestmark = pytest.mark.slow

SESSIONS = 20_000
USERS = 100
LIMIT = 5

# A few sessions have another subscription plan in their metadata.
FILL = f"""
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence)
    SELECT 's' || i, 'u' || i % {USERS},
        jsonb_build_object('plan', CASE i % 5000 WHEN 1 THEN 'pro' ELSE 'free' END), 2
    FROM generate_series(1, {SESSIONS}) i;

    INSERT INTO messages (session_id, sequence, message_id, role, content, words, metadata)
    SELECT session_id, i, 'm' || i, 'user', 'hello', to_tsvector('simple', 'hello'), metadata
    FROM sessions, generate_series(1, 2) i;

    INSERT INTO embeddings (session_id, sequence, model, text_hash, embedding)
    SELECT session_id, sequence, {{model}}, {{text_hash}}, ARRAY[1, 0, 0, 0]::real[]::{{halfvec}}
    FROM messages m;

    ANALYZE;
"""

PATH = '$.plan == "pro"'
FILTER = MessageFilter(metadata=PATH)

# Settings that forbid the planner one choice each.
PLANS = [
    "enable_nestloop, enable_mergejoin",
    "enable_nestloop, enable_hashjoin",
    "enable_hashjoin, enable_mergejoin",
    "enable_indexscan, enable_indexonlyscan, enable_bitmapscan",
    "enable_seqscan, enable_indexscan, enable_indexonlyscan",
    "",
]


class Filled:
    """A pool whose statements are explained, on 20,000 sessions of 100 users."""

    def __init__(self, explained: Explained, space: VectorSpace, run: Run) -> None:
        self.explained = explained
        self.pool: Pool = explained.pool
        self.space = space
        self.run = run

    def prefer(self, disabled: str) -> None:
        """Apply planner settings for the block."""

        async def configure() -> None:
            async with self.pool.connection() as connection:
                await connection.execute("RESET ALL")
                for name in filter(None, disabled.split(", ")):
                    await connection.execute(f"SET {name} = off")

        self.run(configure())

    def plans(
        self, call: Callable[["Filled", Access], Coroutine[Any, Any, Any]], user: str | None
    ) -> list[Plan]:
        """Make a call with the access scope of a user, or with none."""
        return self.explained.all_of(lambda: call(self, Access(user)))


@pytest.fixture(scope="module")
def filled(postgres: str, template: str, run: Run) -> Iterator[Filled]:
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            pytest.skip("only a superuser may explain what others run")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = make_conninfo(postgres, dbname=name)
        with explained(url, run) as result:
            space = run(prepare_model(result.pool, "m", 4))
            with psycopg.connect(url, autocommit=True) as filling:
                filling.execute(f"DROP INDEX embeddings_nearest_{space.model_id}")
                filling.execute(FILL.format(**space.names).encode())
            yield Filled(result, space, run)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def match(filled: Filled, access: Access, scope: Scope) -> None:
    async with snapshot(filled.pool, scope, access) as connection:
        store = KeywordStore(connection)
        query = await store.read_text(access, "hello", scope=scope)
        await store.rank(access, query, limit=LIMIT, scope=scope, filter=FILTER)


async def nearest(filled: Filled, access: Access, scope: Scope) -> None:
    async with snapshot(filled.pool, scope, access) as connection:
        store = VectorStore(connection, filled.space)
        await store.nearest(access, [1, 0, 0, 0], limit=LIMIT, scope=scope, filter=FILTER)


async def newest(filled: Filled, access: Access, scope: Scope) -> None:
    async with snapshot(filled.pool, scope, access) as connection:
        await ResultStore(connection).newest(access, limit=LIMIT, scope=scope, filter=FILTER)


def list_sessions(filled: Filled, access: Access, **filter: Any) -> Coroutine[Any, Any, Any]:
    store = SessionStore(filled.pool)
    narrowed = SessionFilter(metadata=PATH, **filter)
    return store.list_sessions(access, KeyRange(), limit=LIMIT, filter=narrowed)


SCOPES = [ALL_MESSAGES, Scope(session_id="s7"), Scope(user_id="u7")]

CALLS: dict[str, Callable[[Filled, Access], Coroutine[Any, Any, Any]]] = {
    "list": list_sessions,
    "list of user": lambda filled, access: list_sessions(filled, access, user_id="u7"),
    **{
        f"{search.__name__} {index}": lambda filled, access, search=search, scope=scope: search(  # type: ignore[misc]
            filled, access, scope
        )
        for search in (match, nearest, newest)
        for index, scope in enumerate(SCOPES)
    },
}


def conditions(plan: dict[str, Any]) -> Iterator[str]:
    """Yield every condition that the nodes of a plan evaluate or look up."""
    for name, value in plan.items():
        if isinstance(value, str) and ("Filter" in name or "Cond" in name or "Key" in name):
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from conditions(item) if isinstance(item, dict) else [str(item)]


def unguarded(condition: str) -> str:
    """Return the condition without its CASE expressions."""
    while (shorter := re.sub(r"\bCASE\b(?:(?!\bCASE\b).)*?\bEND\b", "", condition)) != condition:
        condition = shorter
    return condition


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("disabled", PLANS)
def test_plan_with_access_scope_evaluates_path_inside_case(
    filled: Filled, call: str, disabled: str
) -> None:
    filled.prefer(disabled)

    evaluated = [
        condition
        for plan in filled.plans(CALLS[call], "u7")
        for condition in conditions(plan.root)
        if "jsonpath" in condition
    ]

    assert evaluated
    for condition in evaluated:
        assert "jsonpath" not in unguarded(condition)
        assert "user_id = 'u7'" in condition


def test_plan_without_access_scope_looks_path_up_in_index(filled: Filled) -> None:
    filled.prefer("")

    (plan,) = [plan for plan in filled.plans(list_sessions, None) if plan.ways]

    assert plan.ways == {"sessions_metadata", "sessions"}
    assert plan.rows <= 3 * LIMIT
    assert [c for c in conditions(plan.root) if "jsonpath" in c and "CASE" not in c]


def test_plan_of_page_with_access_scope_reads_in_order(filled: Filled) -> None:
    """Otherwise an error of a path beyond the page would depend on the plan."""
    filled.prefer("")

    async def list_free(filled: Filled, access: Access) -> None:
        store = SessionStore(filled.pool)
        narrowed = SessionFilter(metadata='$.plan == "free"')
        await store.list_sessions(access, KeyRange(), limit=LIMIT, filter=narrowed)

    (plan,) = [plan for plan in filled.plans(list_free, "u7") if plan.ways]

    assert plan.ways == {"sessions_listing_of_user"}
    assert plan.rows == LIMIT + 1
