"""PgBouncer in transaction mode, with fewer database sessions than Palaver has connections."""

import asyncio
from collections.abc import Iterator
from functools import partial

import grpc
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, SearchMemoryRequest
from palaver_server.database.connection import Connection as PalaverConnection
from palaver_server.database.pool import Pool, PreparedStatements
from palaver_server.database.readiness import wait_for_database
from palaver_server.database.statement import Statement
from palaver_server.errors import DatabaseUnusable
from tests.conftest import Run, StartServer
from tests.support.client import Client, refused
from tests.support.concurrency import Connection, at_once, begin, wait_until_blocked
from tests.support.endpoint import Endpoint
from tests.support.locks import locked
from tests.support.pgbouncer import PgBouncer, running_pgbouncer
from tests.support.rows import wait_until_embedded
from tests.support.searching import found
from tests.support.watching import eventually

SESSIONS = 3


@pytest.fixture(scope="module")
def pgbouncer(postgres: str) -> Iterator[PgBouncer]:
    with running_pgbouncer(
        postgres, pool_mode="transaction", default_pool_size=SESSIONS
    ) as pgbouncer:
        yield pgbouncer


@pytest.fixture
def pooled_url(pgbouncer: PgBouncer, database_url: str) -> str:
    """The URL of the test's database through PgBouncer."""
    return pgbouncer.url_of(database_url)


def use_all(client: Client, name: str) -> None:
    """Make calls of all kinds to a session and a user of this name."""
    client.add(name, "hello", f"I am {name}", user_id=name)
    client.add(name, "again", expected_last_sequence=2)
    client.add_ids(name, "id", user_id=name)
    client.update_session(name, metadata={"name": name})
    client.update_message(name, "id", content="changed")
    assert client.contents(name) == ["hello", f"I am {name}", "again", "changed"]
    assert len(client.stream_messages(name, chunk_size=1)) == 4
    assert name in client.session_ids(user_id=name)
    assert client.session_ids(metadata=f'$.name == "{name}"') == [name]
    assert found(client, "changed", user_id=name) == ["changed"]
    assert client.get_user(name).user_id == name
    client.delete_messages(name, message_ids=["id"])
    client.delete_user(name)
    with refused(grpc.StatusCode.NOT_FOUND):
        client.get_session(name)


LEFT_BEHIND = """
    SELECT 'lock', count(*) FROM pg_locks WHERE locktype = 'advisory'
    UNION ALL SELECT 'prepared', count(*) FROM pg_prepared_statements
    UNION ALL SELECT name, 1 FROM pg_settings WHERE source = 'session'
        AND name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'jit',
            'default_text_search_config', 'max_parallel_workers_per_gather')
"""


def left_behind(pooled_url: str) -> set[tuple[str, int]]:
    """Return what was left in the database sessions, and locks that are held."""
    left: set[tuple[str, int]] = set()
    connections = [psycopg.connect(pooled_url, prepare_threshold=None) for _ in range(SESSIONS)]
    for connection in connections:  # in a transaction, so that each has another session
        left.update(connection.execute(LEFT_BEHIND).fetchall())
    for connection in connections:
        connection.close()
    return left


def test_pgbouncer_in_transaction_mode_serves_all_calls_and_keeps_nothing(
    pgbouncer: PgBouncer, empty_database_url: str, start_server: StartServer, endpoint: Endpoint
) -> None:
    url = pgbouncer.url_of(empty_database_url)
    with psycopg.connect(empty_database_url, autocommit=True) as database:
        # Two servers with settings of their own, both of which migrate through PgBouncer.
        languages = ("english", "german")
        servers = [
            start_server(database_url=url, search_language=language, **endpoint.settings)
            for language in languages
        ]

        at_once(
            [
                partial(use_all, server, f"{number} {kind}")
                for number in range(8)
                for kind, server in enumerate(servers)
            ]
        ).all_succeeded()
        assert servers[1].purge().sessions.done == 16
        servers[0].add("kept", "The foxes were running")
        wait_until_embedded(database, 1)
        *_, reindexed = servers[0].admin.Reindex(ReindexRequest())
        assert reindexed.words.done == 1
        assert found(servers[0], "run fox") == ["The foxes were running"]
        assert found(servers[0], "foxes running", mode=SearchMemoryRequest.SEMANTIC)

    assert left_behind(url) == {("lock", 0), ("prepared", 0)}


@pytest.mark.parametrize("way", ["deadline", "statement timeout"])
def test_pgbouncer_expired_call_cancels_its_statement_and_no_other(
    way: str, start_server: StartServer, pooled_url: str, database: Connection, database_url: str
) -> None:
    settings = {} if way == "deadline" else {"statement_timeout_seconds": 0.5}
    client = start_server(database_url=pooled_url, **settings)
    client.add("s", "one")
    client.add("other", "one")
    request = AddMemoryRequest(session_id="s", messages=[Message(role="user", content="two")])
    timeout = 0.5 if way == "deadline" else 60

    with locked(database_url):
        call = begin(lambda: client.memory.AddMemory(request, timeout=timeout))
        wait_until_blocked(database)
        while not call.done():
            client.add("other", "another")
        with pytest.raises(grpc.RpcError, match="DEADLINE_EXCEEDED"):
            call.result()
        wait_until_blocked(database, 0)

    assert client.get_session("s").last_sequence == 1


SLEEP = Statement("test", "SELECT pg_sleep(600)", is_prepared=False)

SLEEPING = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep'"


def test_pgbouncer_survives_statements_that_are_cancelled_twice(
    pooled_url: str, run: Run, database: Connection
) -> None:
    async def cancel_twice() -> None:
        async with await PalaverConnection.connect(pooled_url) as connection:
            waiting = asyncio.create_task(connection.fetch(SLEEP))
            await asyncio.to_thread(
                eventually, lambda: database.execute(SLEEPING).fetchall(), "it sleeps"
            )
            waiting.cancel()
            await asyncio.sleep(0)  # the cancel request begins
            waiting.cancel()
            await asyncio.wait([waiting])

    for _ in range(20):
        run(cancel_twice())
        eventually(lambda: not database.execute(SLEEPING).fetchall(), "it ended")


@pytest.mark.parametrize("prepared_statements", PreparedStatements)
def test_pgbouncer_without_prepared_statements_fails_no_statement(
    prepared_statements: PreparedStatements, start_server: StartServer, pooled_url: str
) -> None:
    client = start_server(database_url=pooled_url, prepared_statements=prepared_statements.value)
    client.add_session("s")

    for _ in range(5):
        at_once([partial(client.get_session, "s") for _ in range(20)]).all_succeeded()


@pytest.mark.parametrize("pool_mode", ["session", "transaction"])
def test_pgbouncer_is_noticed_and_nothing_is_prepared(
    pool_mode: str, run: Run, postgres: str, database_url: str
) -> None:
    with running_pgbouncer(postgres, pool_mode=pool_mode) as pgbouncer:
        pool = Pool(pgbouncer.url_of(database_url), min_size=1, max_size=1, timeout=5)

        async def prepares() -> bool:
            await pool.open()
            async with pool.connection() as connection:
                return connection.prepares

        assert run(prepares()) is False
        run(pool.close())


def test_pgbouncer_refuses_options_of_a_url_and_the_start_does_not_wait(
    pooled_url: str, run: Run
) -> None:
    url = make_conninfo(pooled_url, options="-csearch_path=chats")

    with pytest.raises(DatabaseUnusable, match="unsupported startup parameter: options"):
        run(wait_for_database(url, seconds=600))
