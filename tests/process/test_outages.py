"""A database that goes silent: nobody closes a connection, and nothing answers any more."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc.error_details_pb2 import RetryInfo

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.conftest import Run, StartServer
from tests.process.conftest import Serve, StartPalaver
from tests.support.client import refused
from tests.support.clusters import FAST, Cluster
from tests.support.concurrency import begin
from tests.support.network import Network, network_to
from tests.support.processes import processes_in, scratch_directory
from tests.support.servers import running_server, running_tasks
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of

# "Within seconds", on a busy machine.
SECONDS_TO_NOTICE = 8


@pytest.fixture(scope="module")
def database_dir(cluster: Cluster) -> Iterator[Path]:
    """The data directory of a PostgreSQL that runs."""
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


def test_a_frozen_database_is_noticed_within_seconds(
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


def test_calls_that_a_silent_database_leaves_hanging_are_ended_and_more_are_refused_at_once(
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
        client.add(session_id, "in vain", timeout=5)
    network.mend()

    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
    eventually(lambda: health_of(client) == SERVING, "the database is found again", within=15)
    client.add(session_id, "hello again")


def test_a_caller_whose_call_expires_at_a_silent_database_gives_back_what_it_used(
    start_server: StartServer, network: Network, session_id: str
) -> None:
    client = start_server(
        database_url=network.url,
        health_interval_seconds=600,  # so that nobody else ends the call
        default_deadline_seconds=0.3,
        max_running_calls=1,
        max_waiting_calls=0,
        pool_max_size=1,
    )
    client.add(session_id, "hello", timeout=60)

    network.cut()
    for _ in range(2):  # the second finds a place
        call = begin(lambda: client.add(session_id, "lost"))
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            call.result(SECONDS_TO_NOTICE)


def test_after_lost_connections_it_serves_over_new_ones(
    start_server: StartServer, network: Network, session_id: str
) -> None:
    client = start_server(database_url=network.url, health_interval_seconds=0.2)

    network.cut()
    eventually(lambda: health_of(client) == NOT_SERVING, "the silence is noticed")
    network.mend()

    eventually(lambda: health_of(client) == SERVING, "the database is found again", within=15)
    client.add(session_id, "hello")


def test_a_silent_database_does_not_keep_it_from_stopping(serve: Serve, network: Network) -> None:
    palaver, client = serve("--database-url", network.url, "--health-interval-seconds=0.2")

    network.cut()
    eventually(lambda: health_of(client) == NOT_SERVING, "the silence is noticed")

    assert palaver.stop() == 0


def test_a_server_that_stops_while_it_asks_a_silent_database_leaves_no_statement(
    run: Run, network: Network
) -> None:
    statement = "AsyncConnection.execute"

    with running_server(run, network.url, health_interval_seconds=0.01):
        network.cut()
        eventually(lambda: running_tasks(run)[statement], "a check waits for the database")

    assert not running_tasks(run)[statement]


def test_a_silent_database_does_not_keep_a_start_from_being_stopped(
    start_palaver: StartPalaver, network: Network
) -> None:
    network.cut()
    palaver = start_palaver("serve", "--listen=127.0.0.1:0", "--database-url", network.url)
    eventually(lambda: network.connections, "it connects")

    palaver.stop()

    assert "Traceback" not in palaver.output
