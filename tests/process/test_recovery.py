"""A database that goes and comes back: the health follows it by itself, and so do the calls."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest

from server import app
from server.embedded import EmbeddedPostgres
from tests.client import Client
from tests.clusters import FAST
from tests.conftest import StartServer
from tests.watching import NOT_SERVING, SERVING, eventually, health_of, watched_health


class Database:
    """A PostgreSQL that can be stopped, started and killed."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._running = ExitStack()
        self.start()
        self.url = self._postgres.url

    def start(self) -> None:
        self._postgres = self._running.enter_context(EmbeddedPostgres(self._data_dir, FAST))

    def stop(self) -> None:
        self._running.close()

    def kill(self) -> None:
        """Kills it; it comes back soon."""
        os.kill(self._postgres.pid, signal.SIGKILL)


@pytest.fixture
def own_database(data_dir: Path) -> Iterator[Database]:
    own_database = Database(data_dir)
    yield own_database
    own_database.stop()


def everywhere(client: Client, status: int) -> bool:
    """Tells whether this is the health of all, and of each service."""
    return {health_of(client, service) for service in ("", *app.SERVICES)} == {status}


def test_the_health_follows_the_database(own_database: Database, start_server: StartServer) -> None:
    client = start_server(database_url=own_database.url, health_interval_seconds=0.1)

    with watched_health(client) as health:
        own_database.stop()
        health.turns(NOT_SERVING)
        eventually(lambda: everywhere(client, NOT_SERVING), "no service serves")

        own_database.start()
        health.turns(SERVING)
        eventually(lambda: everywhere(client, SERVING), "every service serves")

        own_database.kill()
        health.turns(NOT_SERVING)
        health.turns(SERVING)

        assert health.statuses == [SERVING, NOT_SERVING, SERVING, NOT_SERVING, SERVING]


def test_when_it_is_said_to_serve_again_calls_succeed(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    client = start_server(
        database_url=own_database.url, health_interval_seconds=0.1, pool_timeout_seconds=0.5
    )
    client.sessions.AddSession(AddSessionRequest(session_id=session_id))
    request = GetSessionRequest(session_id=session_id)

    own_database.stop()
    eventually(lambda: health_of(client) == NOT_SERVING, "the loss is noticed")
    for _ in range(4):  # for so long that somebody might lose patience and try less often
        with pytest.raises(grpc.RpcError):
            client.sessions.GetSession(request)
    own_database.start()
    eventually(lambda: health_of(client) == SERVING, "the database is found again")

    for _ in range(5):
        client.sessions.GetSession(request)
