"""Outages: a database that is unreachable, frozen or silent."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from palaver_server.database import pool as pool_module
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from palaver_server.transport.database_health import DatabaseHealth
from tests.conftest import Run, StartServer
from tests.support.client import Client, refused
from tests.support.clusters import FAST, Cluster
from tests.support.concurrency import Connection, begin
from tests.support.network import Network, network_to
from tests.support.palaver_process import Serve, StartPalaver
from tests.support.processes import processes_in, scratch_directory
from tests.support.servers import running_server, running_tasks
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of


def test_outage_of_unreachable_database_is_unavailable(
    start_server: StartServer, postgres: str, database: Connection
) -> None:
    palaver = start_server(pool_timeout_seconds=0.2)
    palaver.add("s", "hello")
    name = database.info.dbname
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )

    for call in (Client.get_memory, Client.stream_messages):
        with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
            call(palaver, "s")

        assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0


# "Within seconds" of the documentation, with room for a busy machine.
SECONDS_TO_NOTICE = 8


@pytest.fixture(scope="module")
def database_dir(cluster: Cluster) -> Iterator[Path]:
    """The data directory of a running PostgreSQL."""
    with (
        scratch_directory() as directory,
        cluster.lent(directory / "data") as data_dir,
        EmbeddedPostgres(data_dir, FAST),
    ):
        yield data_dir


@pytest.fixture
def network(database_dir: Path) -> Iterator[Network]:
    """A network to that PostgreSQL."""
    with network_to(database_dir / "postgres" / ".s.PGSQL.5432") as network:
        yield network


def test_outage_of_frozen_database_is_noticed_within_seconds(
    start_server: StartServer, database_dir: Path, network: Network, session_id: str
) -> None:
    client = start_server(database_url=network.url, health_interval_seconds=0.2)
    frozen = processes_in(database_dir)

    for process in frozen:
        process.suspend()
    try:
        eventually(
            lambda: health_of(client) == NOT_SERVING,
            "the silence is noticed",
            within=SECONDS_TO_NOTICE,
        )
    finally:
        for process in frozen:
            process.resume()

    eventually(lambda: health_of(client) == SERVING, "the database is found again")
    client.add(session_id, "hello")


def test_outage_of_silent_database_ends_hanging_calls_and_refuses_more(
    start_server: StartServer, network: Network, session_id: str
) -> None:
    client = start_server(
        database_url=network.url, health_interval_seconds=0.2, pool_timeout_seconds=600
    )
    client.add(session_id, "hello")

    network.cut()
    hanging = begin(lambda: client.add(session_id, "lost"))  # without a deadline
    with refused(grpc.StatusCode.UNAVAILABLE):
        hanging.result(SECONDS_TO_NOTICE)
    eventually(lambda: health_of(client) == NOT_SERVING, "the silence is told")
    with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
        client.add(session_id, "never answered", timeout=5)
    network.mend()

    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
    eventually(lambda: health_of(client) == SERVING, "the database is found again", within=15)
    client.add(session_id, "hello again")


def test_outage_of_silent_database_frees_resources_of_expired_call(
    start_server: StartServer, network: Network, session_id: str
) -> None:
    client = start_server(
        database_url=network.url,
        health_interval_seconds=600,  # so that no other deadline ends the call
        default_deadline_seconds=0.3,
        max_running_calls=1,
        max_waiting_calls=0,
        pool_max_size=1,
    )
    client.add(session_id, "hello", timeout=60)

    network.cut()
    for _ in range(2):  # the second call gets a slot
        call = begin(lambda: client.add(session_id, "lost"))
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            call.result(SECONDS_TO_NOTICE)


def test_outage_of_connections_is_followed_by_new_ones(
    start_server: StartServer, network: Network, session_id: str
) -> None:
    client = start_server(database_url=network.url, health_interval_seconds=0.2)

    network.cut()
    eventually(lambda: health_of(client) == NOT_SERVING, "the silence is noticed")
    network.mend()

    eventually(lambda: health_of(client) == SERVING, "the database is found again", within=15)
    client.add(session_id, "hello")


def test_outage_of_silent_database_does_not_delay_stop(serve: Serve, network: Network) -> None:
    palaver, client = serve("--health-interval-seconds=0.2", PALAVER_DATABASE_URL=network.url)

    network.cut()
    eventually(lambda: health_of(client) == NOT_SERVING, "the silence is noticed")

    assert palaver.stop() == 0


def test_outage_of_silent_database_leaves_no_statement_running_after_stop(
    run: Run, network: Network
) -> None:
    statement = DatabaseHealth._check_over.__qualname__

    with running_server(run, network.url, health_interval_seconds=0.01):
        network.cut()
        eventually(lambda: running_tasks(run)[statement], "a check waits for the database")

    assert not running_tasks(run)[statement]


def test_outage_of_silent_database_does_not_delay_stop_of_start(
    start_palaver: StartPalaver, network: Network
) -> None:
    network.cut()
    palaver = start_palaver("serve", "--listen=127.0.0.1:0", PALAVER_DATABASE_URL=network.url)
    eventually(lambda: network.connections, "it connects")

    palaver.stop()

    assert "Traceback" not in palaver.output


def test_outage_at_the_end_of_a_search_closes_its_connection(
    network: Network, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search returns before its transaction has ended; the pool waits for that only briefly."""
    monkeypatch.setattr(pool_module, "_ROLLBACK_TIMEOUT_SECONDS", 0.2)

    async def search_and_close() -> None:
        pool = pool_module.Pool(network.url, min_size=0, max_size=1, timeout=20)
        await pool.open()
        async with pool.connection(snapshot=["SET LOCAL jit = off"]) as connection:
            await connection.execute("SELECT 1")
            network.cut()
        network.mend()
        async with pool.connection() as other:  # the only one that the pool may have
            assert other is not connection
        await pool.close()
        assert connection.closed

    run(search_and_close())
