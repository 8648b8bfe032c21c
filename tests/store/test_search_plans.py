"""Plans of vector search: a search costs what its scope holds, not what the database holds."""

import uuid
from collections.abc import Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.access import EVERYTHING
from palaver_server.embedding.models import VectorSpace, prepare_model
from palaver_server.embedding.vector_store import Similarities, VectorStore
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from tests.conftest import Run
from tests.support.plans import Explained, Plan, explained
from tests.support.searching import snapshot

pytestmark = pytest.mark.slow

USERS = 300
SESSIONS = 600
MESSAGES = 100  # of each session: 200 of each user, 60,000 in all
INDEXED = 3_000
LIMIT = 10

# An index entry and a row for each message, and for its vector, of both models.
A_FEW_TIMES = 20

FILL = f"""
    INSERT INTO sessions (session_id, user_id, last_sequence)
    SELECT 's' || i, 'u' || i % {USERS}, {MESSAGES} FROM generate_series(1, {SESSIONS}) i;

    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT 's' || i, j, 'm' || j,
        CASE (i + j) % 10 WHEN 0 THEN 'tool' ELSE 'assistant' END, 'content'
    FROM generate_series(1, {SESSIONS}) i, generate_series(1, {MESSAGES}) j;
"""


class Filled(NamedTuple):
    """A pool whose statements are explained, and the vectors of two models.

    Attributes:
        whole: All messages have vectors; without an index, which takes long to fill.
        indexed: The messages of the first sessions have vectors.
    """

    explained: Explained
    whole: VectorSpace
    indexed: VectorSpace


@pytest.fixture(scope="module")
def filled(postgres: str, template: str, run: Run) -> Iterator[Filled]:
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            pytest.skip("only a superuser may explain what others run")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = make_conninfo(postgres, dbname=name)
        with explained(url, run) as result:
            whole, indexed = (run(prepare_model(result.pool, "m", size)) for size in (4, 8))
            with psycopg.connect(url, autocommit=True) as filling:
                filling.execute(FILL)
                filling.execute(f"DROP INDEX embeddings_nearest_{whole.model_id}")
                filling.execute(_embed(whole, SESSIONS * MESSAGES))
                filling.execute(_embed(indexed, INDEXED))
                filling.execute("ANALYZE")
            yield Filled(result, whole, indexed)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _embed(space: VectorSpace, count: int) -> str:
    """Give this many messages different vectors."""
    numbers = ", ".join(f"sin(seed * {n + 1})" for n in range(space.dimensions))
    return f"""
        INSERT INTO embeddings (session_id, sequence, model, text_hash, embedding)
        SELECT session_id, sequence, {space.model_id}, {space.names["text_hash"]},
            ARRAY[{numbers}]::real[]::{space.names["halfvec"]}
        FROM (SELECT *, row_number() OVER () AS seed FROM messages LIMIT {count}) m
    """


def nearest(
    filled: Filled, space: VectorSpace, scope: Scope, filter: MessageFilter = EVERY_MESSAGE
) -> Plan:
    return filled.explained.costliest(
        lambda: find(filled, space, limit=LIMIT, scope=scope, filter=filter)
    )


async def find(
    filled: Filled, space: VectorSpace, *, scope: Scope = ALL_MESSAGES, **narrowed: Any
) -> Similarities:
    vector = [1.0, *[0.0] * (space.dimensions - 1)]
    async with snapshot(filled.explained.pool, scope) as connection:
        store = VectorStore(connection, space)
        return await store.nearest(EVERYTHING, vector, scope=scope, **narrowed)


def test_plan_of_vector_search_of_user_reads_only_its_messages(filled: Filled) -> None:
    plan = nearest(filled, filled.whole, Scope(user_id="u7"))

    of_user = SESSIONS // USERS * MESSAGES
    assert plan.rows <= A_FEW_TIMES * of_user


def test_plan_of_vector_search_of_session_reads_only_its_messages(filled: Filled) -> None:
    plan = nearest(filled, filled.whole, Scope(session_id="s7"))

    assert plan.rows <= A_FEW_TIMES * MESSAGES


@pytest.mark.parametrize(
    ("narrowed", "looked_at"),
    [(EVERY_MESSAGE, LIMIT), (MessageFilter(roles=["assistant"]), 5 * LIMIT)],
    ids=["all", "filtered"],
)
def test_plan_of_vector_search_of_all_uses_index_of_model(
    filled: Filled, narrowed: MessageFilter, looked_at: int
) -> None:
    plan = nearest(filled, filled.indexed, Scope(), narrowed)

    index = f"embeddings_nearest_{filled.indexed.model_id}"
    assert plan.ways <= {index, "messages_live", "messages_pkey", "sessions_expiring"}
    assert plan.rows <= 2 * looked_at + LIMIT


def test_plan_of_vector_search_with_selective_filter_continues_index_scan(
    filled: Filled, run: Run
) -> None:
    """The scan continues beyond its first `hnsw.ef_search` rows."""
    found = run(find(filled, filled.indexed, limit=60, filter=MessageFilter(roles=["tool"])))

    assert len(found) == 60
