"""Which rows a plan evaluates a path on: for a bound caller, those that it may see alone."""

import re
import uuid
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from server.principal import PRINCIPAL, Principal, Role
from server.store.embedding_models import VectorSpace, prepare_model
from server.store.embeddings import EmbeddingStore
from server.store.found import FoundStore
from server.store.message_filter import EVERYTHING, MessageFilter, Scope
from server.store.page import Span
from server.store.pool import Pool
from server.store.sessions import SessionFilter, SessionStore
from server.store.words import WordStore
from tests.conftest import Run
from tests.plans import Explained, Plan, explained

SESSIONS = 20_000
USERS = 100
LIMIT = 5

# A few sessions have another plan than the rest.
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

# The planner's choices, each taken away.
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
        """Has the planner do without what these settings allow, if it can."""

        async def configure() -> None:
            async with self.pool.connection() as connection:
                await connection.execute("RESET ALL")
                for name in filter(None, disabled.split(", ")):
                    await connection.execute(f"SET {name} = off")

        self.run(configure())

    def plans(
        self, call: Callable[["Filled"], Coroutine[Any, Any, Any]], user: str | None
    ) -> list[Plan]:
        """Makes a call of a caller who is bound to a user, or to none."""

        async def bound() -> None:
            PRINCIPAL.set(Principal("caller", Role.READER, user))
            await call(self)

        return self.explained.all_of(bound)


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


async def match(filled: Filled, scope: Scope) -> None:
    store = WordStore(filled.pool)
    query = await store.read_text("hello", scope=scope)
    await store.match(query, limit=LIMIT, scope=scope, filter=MessageFilter(metadata=PATH))


def nearest(filled: Filled, scope: Scope) -> Coroutine[Any, Any, Any]:
    store = EmbeddingStore(filled.pool, filled.space)
    return store.nearest(
        [1, 0, 0, 0], limit=LIMIT, scope=scope, filter=MessageFilter(metadata=PATH)
    )


def newest(filled: Filled, scope: Scope) -> Coroutine[Any, Any, Any]:
    store = FoundStore(filled.pool)
    return store.newest(limit=LIMIT, scope=scope, filter=MessageFilter(metadata=PATH))


def list_sessions(filled: Filled, **filter: Any) -> Coroutine[Any, Any, Any]:
    store = SessionStore(filled.pool)
    narrowed = SessionFilter(metadata=PATH, **filter)
    return store.list_sessions(Span(), limit=LIMIT, filter=narrowed)


SCOPES = [EVERYTHING, Scope(session_id="s7"), Scope(user_id="u7")]

CALLS: dict[str, Callable[[Filled], Coroutine[Any, Any, Any]]] = {
    "list": list_sessions,
    "list of user": lambda filled: list_sessions(filled, user_id="u7"),
    **{
        f"{search.__name__} {index}": lambda filled, search=search, scope=scope: search(  # type: ignore[misc]
            filled, scope
        )
        for search in (match, nearest, newest)
        for index, scope in enumerate(SCOPES)
    },
}


def conditions(plan: dict[str, Any]) -> Iterator[str]:
    """Everything that the nodes of a plan evaluate or look up."""
    for name, value in plan.items():
        if isinstance(value, str) and ("Filter" in name or "Cond" in name or "Key" in name):
            yield value
        elif isinstance(value, list):
            for item in value:
                yield from conditions(item) if isinstance(item, dict) else [str(item)]


def unguarded(condition: str) -> str:
    """The condition without its CASE expressions."""
    while (shorter := re.sub(r"\bCASE\b(?:(?!\bCASE\b).)*?\bEND\b", "", condition)) != condition:
        condition = shorter
    return condition


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("disabled", PLANS)
def test_a_bound_callers_path_is_evaluated_within_case_alone(
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


def test_the_path_of_a_caller_bound_to_nobody_is_looked_up_in_its_index(filled: Filled) -> None:
    filled.prefer("")

    (plan,) = [plan for plan in filled.plans(list_sessions, None) if plan.ways]

    assert plan.ways == {"sessions_metadata", "sessions"}
    assert plan.rows <= 3 * LIMIT
    assert [c for c in conditions(plan.root) if "jsonpath" in c and "CASE" not in c]


def test_a_page_of_a_bound_caller_is_read_in_order_and_no_further(filled: Filled) -> None:
    """Else whether a path fails beyond the page would depend on the plan."""
    filled.prefer("")

    async def list_free(filled: Filled) -> None:
        store = SessionStore(filled.pool)
        narrowed = SessionFilter(metadata='$.plan == "free"')
        await store.list_sessions(Span(), limit=LIMIT, filter=narrowed)

    (plan,) = [plan for plan in filled.plans(list_free, "u7") if plan.ways]

    assert plan.ways == {"sessions_listing_of_user"}
    assert plan.rows == LIMIT + 1
