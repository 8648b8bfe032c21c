"""A search uses one connection and sees one snapshot."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.connection import Connection as DatabaseConnection
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement
from palaver_server.embedding.semantic_search import NoSemanticSearch, SemanticSearch
from palaver_server.errors import EmbedderUnavailable, NotFound, SemanticSearchUnavailable
from palaver_server.search.keyword_store import KeywordStore
from palaver_server.search.result_store import ResultStore
from palaver_server.search.searcher import Mode, Search, Searcher
from palaver_server.store.message_filter import ALL_MESSAGES, MessageFilter, Scope
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.endpoint import DIMENSIONS
from tests.support.searching import snapshot
from tests.support.vectors import Vectors, embed

NO_SEMANTIC_SEARCH = NoSemanticSearch("the server has no embedder")


class Embedder:
    """Embeds with the test's vectors, or fails."""

    model, dimensions, batch_size = "test", DIMENSIONS, 10

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        if self._error:
            raise self._error
        return [embed(text) for text in texts]

    async def close(self) -> None:
        """Do nothing."""


@contextmanager
def traced_pool(database_url: str, run: Run, before: Callable[[Statement], None]) -> Iterator[Pool]:
    """A pool that calls `before` with each statement before it runs."""

    @contextmanager
    def trace(statement: Statement) -> Iterator[None]:
        before(statement)
        yield

    pool = Pool(database_url, min_size=1, max_size=1, timeout=5, trace=trace)
    run(pool.open())
    yield pool
    run(pool.close())


def contents(pool: Pool, run: Run, search: Search, vectors: Vectors) -> list[str]:
    semantic = SemanticSearch(Embedder(), vectors.space)
    results = run(Searcher(pool, semantic).search(EVERYTHING, search)).results
    return sorted(result.message.content for result in results)


SEARCHES = {
    "newest": Search(text="", limit=10),
    "keyword": Search(text="word", limit=10, mode=Mode.KEYWORD),
    "diverse": Search(text="word", limit=10, mode=Mode.KEYWORD, diversity=0.5),
    "semantic": Search(text="user: word", limit=10, mode=Mode.SEMANTIC),
    "hybrid": Search(text="word", limit=10, mode=Mode.HYBRID, diversity=0.5),
    "filter": Search(text="word", limit=10, filter=MessageFilter(metadata="1 == 1")),
}


@pytest.fixture
def vectors(pool: Pool, run: Run) -> Vectors:
    vectors = Vectors(pool, run)
    vectors.add("s", m1="word one", m2="word two")
    vectors.embed_all()
    return vectors


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_search_takes_one_connection(
    vectors: Vectors, database_url: str, run: Run, search: Search
) -> None:
    with traced_pool(database_url, run, lambda _: None) as pool:
        contents(pool, run, search, vectors)
        before = pool.stats()["requests_num"]

        assert contents(pool, run, search, vectors) == ["word one", "word two"]

        assert pool.stats()["requests_num"] - before == 1


@pytest.mark.usefixtures("vectors")
@pytest.mark.parametrize("kind", ["newest", "keyword"])
def test_search_takes_two_round_trips(
    database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    trips = 0
    wait = DatabaseConnection.wait

    async def counted(self: DatabaseConnection, *args: Any, **kwargs: Any) -> Any:
        nonlocal trips
        trips += 1
        return await wait(self, *args, **kwargs)

    async def trips_of(search: Search) -> int:
        searcher = Searcher(pool, NO_SEMANTIC_SEARCH)
        await searcher.search(EVERYTHING, search)
        before = trips
        assert len((await searcher.search(EVERYTHING, search)).results) == 2
        return trips - before

    with traced_pool(database_url, run, lambda _: None) as pool:
        monkeypatch.setattr(DatabaseConnection, "wait", counted)
        # The end of the first search's transaction, for which that did not wait, is the third.
        assert run(trips_of(SEARCHES[kind])) == 2 + 1


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
def test_search_during_a_delete_sees_one_snapshot(
    vectors: Vectors, database_url: str, run: Run, database: Connection, search: Search
) -> None:
    """The delete commits after each statement but the first in turn; the results are whole."""
    seen: list[Statement] = []
    delete_at = -1

    def delete(statement: Statement) -> None:
        seen.append(statement)
        if len(seen) - 1 == delete_at:
            database.execute("UPDATE messages SET deleted_at = now() WHERE message_id = 'm2'")

    with traced_pool(database_url, run, delete) as pool:
        contents(pool, run, search, vectors)
        seen.clear()
        contents(pool, run, search, vectors)
        statements = len(seen)
        assert statements >= 2
        for delete_at in range(1, statements):  # noqa: B007 - `delete` reads it
            seen.clear()
            assert contents(pool, run, search, vectors) == ["word one", "word two"], seen[-1].name
            assert len(seen) == statements
            seen.clear()
            assert contents(pool, run, search, vectors)[:1] == ["word one"]
            database.execute("UPDATE messages SET deleted_at = NULL")


def test_get_results_of_a_message_deleted_before_the_statement_leaves_it_out(
    vectors: Vectors, run: Run
) -> None:
    async def find_and_read() -> list[str]:
        async with vectors.pool.connection() as connection:  # each statement has its own snapshot
            query = await KeywordStore(connection).read_text(EVERYTHING, "word")
            hits = await KeywordStore(connection).rank(EVERYTHING, query, limit=10)
            assert len(hits) == 2
            await connection.execute("UPDATE messages SET deleted_at = now() WHERE sequence = 2")
            results = await ResultStore(connection).get_messages(EVERYTHING, hits, query)
            return [result.message.content for result in results]

    assert run(find_and_read()) == ["word one"]


def test_search_leaves_no_transaction_open(vectors: Vectors, run: Run) -> None:
    async def search_and_look() -> int:
        await Searcher(vectors.pool, NO_SEMANTIC_SEARCH).search(
            EVERYTHING, Search(text="word", limit=1)
        )
        async with vectors.pool.connection() as connection:
            return connection.pgconn.transaction_status

    assert run(search_and_look()) == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize(
    ("semantic", "error"),
    [
        (lambda _: NO_SEMANTIC_SEARCH, SemanticSearchUnavailable),
        (
            lambda space: SemanticSearch(Embedder(EmbedderUnavailable("it is down")), space),
            EmbedderUnavailable,
        ),
    ],
    ids=["no embedder", "failing embedder"],
)
def test_search_of_a_missing_session_is_not_found_before_the_embedder_fails(
    vectors: Vectors, run: Run, semantic: Callable[..., SemanticSearch], error: type[Exception]
) -> None:
    searcher = Searcher(vectors.pool, semantic(vectors.space))
    for session_id, expected in (("missing", NotFound), ("s", error)):
        search = Search(
            text="word", limit=1, mode=Mode.SEMANTIC, scope=Scope(session_id=session_id)
        )
        with pytest.raises(expected):
            run(searcher.search(EVERYTHING, search))


def test_search_of_a_scope_runs_in_one_process_and_of_everything_in_parallel(
    pool: Pool, run: Run, database: Connection
) -> None:
    async def processes(scope: Scope) -> int:
        async with snapshot(pool, scope) as connection:
            cursor = await connection.execute(
                "SELECT current_setting('max_parallel_workers_per_gather')::integer"
            )
            (number,) = await cursor.fetchone() or ()
            return int(number)

    (usual,) = database.execute("SHOW max_parallel_workers_per_gather").fetchone() or ()

    assert run(processes(Scope(session_id="s"))) == 0
    assert run(processes(ALL_MESSAGES)) == int(usual) > 0
