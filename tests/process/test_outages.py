"""A database that goes silent: nobody closes a connection, and nothing answers any more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.embedded import EmbeddedPostgres
from tests.clusters import FAST, Cluster
from tests.conftest import StartServer
from tests.process.conftest import Serve, StartPalaver
from tests.process.network import Network, network_to
from tests.processes import processes_in, scratch_directory
from tests.watching import NOT_SERVING, SERVING, eventually, health_of

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


def test_a_silent_database_does_not_keep_a_start_from_being_stopped(
    start_palaver: StartPalaver, network: Network
) -> None:
    network.cut()
    palaver = start_palaver("serve", "--listen=127.0.0.1:0", "--database-url", network.url)
    eventually(lambda: network.connections, "it connects")

    palaver.stop()

    assert "Traceback" not in palaver.output
