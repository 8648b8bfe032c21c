"""Recovery: after the database was unreachable or refused writes, health and calls recover."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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


class App(NamedTuple):
    """A server, seen by a client, and the URL of its database."""

    url: str
    client: Client


def everywhere(client: Client, status: int) -> bool:
    """Return whether the server and each service report this health."""
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


REFUSED = "the database accepts no new connections"

# PostgreSQL keeps the last query of an idle connection.
END_HEALTH_CONNECTION = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE usename = 'app' AND query LIKE '%transaction_read_only%'
"""


class StartApp(Protocol):
    """Start a server that connects as a role without privileges, with these settings."""

    def __call__(self, **settings: Any) -> App: ...


@pytest.fixture
def start_app(own_database: Database, start_server: StartServer) -> StartApp:
    """A function that starts a server that connects as a role without privileges."""
    with psycopg.connect(own_database.url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA IF EXISTS app CASCADE; DROP ROLE IF EXISTS app")
        admin.execute("CREATE ROLE app LOGIN; CREATE SCHEMA app AUTHORIZATION app")
    url = make_conninfo(own_database.url, user="app")

    def start(**settings: Any) -> App:
        defaults = {"health_interval_seconds": 0.1, "pool_min_size": 1, "pool_max_size": 5}
        return App(url, start_server(database_url=url, **defaults, **settings))

    return start


@pytest.fixture
def app(start_app: StartApp) -> App:
    """A server that has one connection for calls."""
    return start_app(pool_timeout_seconds=2)  # until the pool was refused a connection


def limit_connections(database: Database, limit: int) -> None:
    with psycopg.connect(database.url, autocommit=True) as admin:
        admin.execute(f"ALTER ROLE app CONNECTION LIMIT {limit}".encode())


def test_recovery_health_serves_while_only_new_connections_are_refused(
    own_database: Database, app: App, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.client.add(session_id, "one")

    with watched_health(app.client) as health:
        with locked(app.url, session_id):
            waiting = begin(lambda: app.client.add(session_id, "two"))
            with psycopg.connect(own_database.url, autocommit=True) as admin:
                wait_until_blocked(admin)
            limit_connections(own_database, 1)
            with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
                app.client.get_session(session_id)
            eventually(lambda: REFUSED in caplog.text, "the refusal is noticed")
            assert not waiting.done()
        assert waiting.result(MAX_WAIT_SECONDS).messages[0].sequence == 2
        app.client.get_session(session_id)  # over the open connection
        assert health.statuses == [SERVING]

        limit_connections(own_database, -1)
        assert health.statuses == [SERVING]
    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0


def test_recovery_health_serves_when_its_own_connection_is_lost_and_refused(
    own_database: Database, app: App, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.client.add(session_id, "one")
    limit_connections(own_database, 1)

    with watched_health(app.client) as health:
        with psycopg.connect(own_database.url, autocommit=True) as admin:
            eventually(lambda: admin.execute(END_HEALTH_CONNECTION).rowcount, "it is ended")
        eventually(lambda: REFUSED in caplog.text, "the refusal is noticed")
        for _ in range(5):
            app.client.get_session(session_id)
        assert health.statuses == [SERVING]

    limit_connections(own_database, -1)


def test_recovery_lost_health_connection_ends_no_call_of_a_full_database(
    own_database: Database, app: App, session_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.client.add(session_id, "one")

    with locked(app.url, session_id), watched_health(app.client) as health:
        waiting = begin(lambda: app.client.add(session_id, "two"))
        with psycopg.connect(own_database.url, autocommit=True) as admin:
            wait_until_blocked(admin)
            limit_connections(own_database, 1)
            eventually(lambda: admin.execute(END_HEALTH_CONNECTION).rowcount, "it is ended")
        eventually(lambda: REFUSED in caplog.text, "the refusal is noticed")
        health.turns(NOT_SERVING)  # no connection is free to ask over
        assert not waiting.done()
        limit_connections(own_database, -1)
        health.turns(SERVING)

    assert waiting.result(MAX_WAIT_SECONDS).messages[0].sequence == 2


def connect_until_refused(url: str, connections: ExitStack) -> None:
    while True:
        connections.enter_context(psycopg.connect(url))


def test_recovery_health_serves_at_max_connections_of_database(
    start_app: StartApp, session_id: str
) -> None:
    app = start_app(pool_timeout_seconds=60)  # the calls share one connection
    app.client.add(session_id, "one")

    with watched_health(app.client) as health, ExitStack() as others:
        with pytest.raises(psycopg.OperationalError, match="connection"):
            connect_until_refused(app.url, others)
        calls = [begin(lambda: app.client.get_memory(session_id)) for _ in range(20)]
        for call in calls:
            call.result(MAX_WAIT_SECONDS)
        assert health.statuses == [SERVING]


# The connection of the health check.
CHECKS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'SELECT 1 FROM schema_migrations%'
        AND state = 'idle'
"""


def test_recovery_one_lost_connection_affects_no_other_call(
    own_database: Database, start_server: StartServer, session_id: str
) -> None:
    client = start_server(database_url=own_database.url, health_interval_seconds=0.1)
    client.add(session_id, "one")

    with locked(own_database.url, session_id), watched_health(client) as health:
        waiting = begin(lambda: client.add(session_id, "two"))
        with psycopg.connect(own_database.url, autocommit=True) as admin:
            wait_until_blocked(admin)
            eventually(lambda: admin.execute(CHECKS).fetchall(), "it checks")
            admin.execute(
                f"SELECT pg_terminate_backend(pid, 10000) FROM ({CHECKS}) checks".encode()
            )
            eventually(lambda: admin.execute(CHECKS).fetchall(), "it checks again")
        assert health.statuses == [SERVING]
        client.get_session(session_id)
        assert not waiting.done()

    assert waiting.result(MAX_WAIT_SECONDS).messages[0].sequence == 2
