"""Recovery: after the database was unreachable or refused writes, health and calls recover."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from psycopg.conninfo import make_conninfo

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.bootstrap.services import SERVICES
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.conftest import StartServer
from tests.support.client import Client, refused
from tests.support.clusters import FAST
from tests.support.concurrency import MAX_WAIT_SECONDS, begin, wait_until_blocked
from tests.support.locks import locked
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of, watched_health


class Database:
    """A PostgreSQL that the test stops, starts and kills."""

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
        """Kill it; it is restarted automatically."""
        os.kill(self._postgres.pid, signal.SIGKILL)


@pytest.fixture
def own_database(data_dir: Path) -> Iterator[Database]:
    own_database = Database(data_dir)
    yield own_database
    own_database.stop()


def everywhere(client: Client, status: int) -> bool:
    """Tell whether the server and each service report this health."""
    return {health_of(client, service) for service in ("", *SERVICES)} == {status}


def test_recovery_health_follows_database(
    own_database: Database, start_server: StartServer
) -> None:
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


def test_recovery_reported_by_health_means_calls_succeed(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    client = start_server(
        database_url=own_database.url, health_interval_seconds=0.1, pool_timeout_seconds=0.5
    )
    client.add_session(session_id)
    request = GetSessionRequest(session_id=session_id)

    own_database.stop()
    eventually(lambda: health_of(client) == NOT_SERVING, "the loss is noticed")
    for _ in range(4):  # long enough for a backoff to grow
        with pytest.raises(grpc.RpcError):
            client.sessions.GetSession(request)
    own_database.start()
    eventually(lambda: health_of(client) == SERVING, "the database is found again")

    for _ in range(5):
        client.sessions.GetSession(request)


READ_ONLY = "ALTER SYSTEM SET default_transaction_read_only = {}"


def make_read_only(database: Database, *, read_only: bool) -> None:
    """Make the database refuse writes, like a demoted primary."""
    with psycopg.connect(database.url, autocommit=True) as connection:
        connection.execute(READ_ONLY.format("on" if read_only else "off").encode())
        connection.execute("SELECT pg_reload_conf()")


def test_recovery_read_only_database_is_reported_and_still_read(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    client = start_server(database_url=own_database.url, health_interval_seconds=0.1)
    client.add(session_id, "one")

    with watched_health(client) as health:
        make_read_only(own_database, read_only=True)
        try:
            health.turns(NOT_SERVING)
            with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
                client.add(session_id, "two")
            client.get_session(session_id)
        finally:
            make_read_only(own_database, read_only=False)
        health.turns(SERVING)
        client.add(session_id, "two")

        assert health.statuses == [SERVING, NOT_SERVING, SERVING]
    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0


def test_recovery_database_out_of_connections_is_reported_and_used(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    with psycopg.connect(own_database.url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS app CASCADE; DROP ROLE IF EXISTS app")
        admin.execute("CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app")
        url = make_conninfo(own_database.url, user="app")
        client = start_server(
            database_url=url,
            health_interval_seconds=0.1,
            pool_min_size=1,
            pool_max_size=5,
            pool_timeout_seconds=2,  # until the pool was refused a connection
        )
        client.add(session_id, "one")

        with locked(url, session_id), watched_health(client) as health:
            waiting = begin(lambda: client.add(session_id, "two"))
            wait_until_blocked(admin)
            admin.execute("ALTER ROLE app CONNECTION LIMIT 1")
            with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
                client.get_session(session_id)
            health.turns(NOT_SERVING)
            assert not waiting.done()

            admin.execute("ALTER ROLE app CONNECTION LIMIT -1")
            health.turns(SERVING)
            client.get_session(session_id)

        assert waiting.result(MAX_WAIT_SECONDS).messages[0].sequence == 2
    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0


def test_recovery_one_lost_connection_affects_no_other_call(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    client = start_server(database_url=own_database.url, health_interval_seconds=0.1)
    client.add(session_id, "one")

    with locked(own_database.url, session_id), watched_health(client) as health:
        waiting = begin(lambda: client.add(session_id, "two"))
        with psycopg.connect(own_database.url, autocommit=True) as admin:
            wait_until_blocked(admin)
            admin.execute(
                """
                SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE query LIKE '%transaction_read_only%' AND pid <> pg_backend_pid()
                """
            )
        health.turns(NOT_SERVING)  # to the server, the database was unreachable
        health.turns(SERVING)
        client.get_session(session_id)
        assert not waiting.done()

    assert waiting.result(MAX_WAIT_SECONDS).messages[0].sequence == 2
