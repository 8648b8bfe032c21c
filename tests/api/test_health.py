"""Health: of all and of each service, and how it follows the database."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1.health_pb2 import HealthCheckResponse
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest

from server import app
from server.embedded import EmbeddedPostgres
from tests.client import Client
from tests.concurrency import begin, wait_until_blocked
from tests.conftest import StartServer
from tests.processes import scratch_directory
from tests.watching import NOT_SERVING, SERVING, eventually, health_of, watch_health, watched_health


def test_a_server_serves_as_a_whole_and_in_each_of_its_services(palaver: Client) -> None:
    for service in ("", *app.SERVICES):
        assert health_of(palaver, service) == SERVING, service


def test_an_unknown_service_is_not_found_and_its_watch_waits_for_it(palaver: Client) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        health_of(palaver, "palaver.v1.NoSuchService")
    watch = watch_health(palaver, "palaver.v1.NoSuchService")

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


class Database:
    """A PostgreSQL of the test's own, which it can stop and start."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self.start()

    def start(self) -> None:
        self._postgres = EmbeddedPostgres(self._data_dir, {"fsync": "off"})
        self._postgres.__enter__()

    def stop(self) -> None:
        self._postgres.__exit__(None, None, None)

    def kill(self) -> None:
        """Kills it; it comes back by itself."""
        os.kill(self._postgres.pid, signal.SIGKILL)

    @property
    def url(self) -> str:
        return self._postgres.url


@pytest.fixture(scope="module")
def own_database() -> Iterator[Database]:
    with scratch_directory() as directory:
        database = Database(directory)
        yield database
        database.stop()


def test_it_follows_the_database_by_itself(
    own_database: Database, start_server: StartServer
) -> None:
    client = start_server(database_url=own_database.url, health_interval_seconds=0.1)
    services = ("", *app.SERVICES)

    with watched_health(client) as health:
        own_database.stop()
        health.turns(NOT_SERVING)
        eventually(
            lambda: {health_of(client, service) for service in services} == {NOT_SERVING},
            "no service serves",
        )

        own_database.start()
        health.turns(SERVING)
        eventually(
            lambda: {health_of(client, service) for service in services} == {SERVING},
            "every service serves",
        )

        own_database.kill()
        health.turns(NOT_SERVING)
        health.turns(SERVING)

        assert health.statuses == [SERVING, NOT_SERVING, SERVING, NOT_SERVING, SERVING]


def test_when_it_says_that_it_serves_again_calls_succeed(
    own_database: Database, start_server: StartServer
) -> None:
    client = start_server(
        database_url=own_database.url, health_interval_seconds=0.1, pool_timeout_seconds=0.5
    )
    client.sessions.AddSession(AddSessionRequest(session_id="s"))

    own_database.stop()
    eventually(lambda: health_of(client) == NOT_SERVING, "the loss is noticed")
    for _ in range(5):  # for so long that somebody might lose patience and try less often
        with pytest.raises(grpc.RpcError):
            client.sessions.GetSession(GetSessionRequest(session_id="s"))
    own_database.start()
    eventually(lambda: health_of(client) == SERVING, "the database is found again")

    for _ in range(5):
        client.sessions.GetSession(GetSessionRequest(session_id="s"))


def test_a_busy_pool_is_no_lost_database(
    start_server: StartServer, database_url: str, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    client = start_server(health_interval_seconds=0.1, pool_max_size=1, pool_timeout_seconds=0.5)
    client.add("s", "one")

    with database.transaction():
        database.execute("SELECT FROM sessions WHERE session_id = 's' FOR UPDATE")
        with watched_health(client) as health:
            blocked = begin(lambda: client.add("s", "two"))
            with psycopg.connect(database_url, autocommit=True) as other:
                wait_until_blocked(other)
            with pytest.raises(grpc.RpcError) as raised:
                client.sessions.GetSession(GetSessionRequest(session_id="s"))
            assert health.statuses == [SERVING]

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert blocked.result().messages[0].sequence == 2
