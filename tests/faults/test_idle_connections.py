"""Connections that the database closed while they were idle: no call fails because of one."""

import pytest
from psycopg.conninfo import make_conninfo

from tests.conftest import StartServer
from tests.support.concurrency import Connection
from tests.support.watching import SERVING, eventually, watched_health

SERVERS = "FROM pg_stat_activity WHERE application_name = 'idle' AND datname = current_database()"


@pytest.fixture
def servers_url(database_url: str) -> str:
    """The URL of the test's database, over which connections have a name of their own."""
    return make_conninfo(database_url, application_name="idle")


def test_idle_connections_that_timed_out_fail_no_call(
    start_server: StartServer, servers_url: str, database: Connection
) -> None:
    name = database.info.dbname
    database.execute("SET idle_session_timeout = 0")
    database.execute(f"ALTER DATABASE {name} SET idle_session_timeout = '400ms'".encode())
    client = start_server(database_url=servers_url, pool_min_size=4, health_interval_seconds=1)
    client.add_session("s")

    with watched_health(client) as health:
        for number in range(3):
            rows = database.execute(f"SELECT array_agg(pid) {SERVERS}".encode()).fetchall()
            left = f"SELECT 1 {SERVERS} AND pid = ANY(%s)".encode()
            eventually(lambda: not database.execute(left, rows[0]).fetchall(), "they timed out")  # noqa: B023
            client.add("s", str(number))
            assert client.get_session("s").last_sequence == number + 1

        assert health.statuses == [SERVING]


def test_idle_connections_that_were_terminated_fail_no_call(
    start_server: StartServer, servers_url: str, database: Connection
) -> None:
    client = start_server(database_url=servers_url, pool_min_size=4, health_interval_seconds=60)
    client.add_session("s")
    idle_ones = f"{SERVERS} AND query !~ 'schema_migrations'"

    with watched_health(client) as health:
        for number in range(10):
            ended = database.execute(
                f"SELECT pg_terminate_backend(pid, 10000) {idle_ones}".encode()
            ).fetchall()
            assert ended
            client.add("s", str(number))
            assert client.get_session("s").last_sequence == number + 1

        assert health.statuses == [SERVING]


def test_idle_connection_of_the_health_check_that_was_terminated_is_no_outage(
    start_server: StartServer, servers_url: str, database: Connection
) -> None:
    client = start_server(database_url=servers_url, health_interval_seconds=0.2)
    client.add_session("s")
    # The last statement of a check: a connection that ends earlier was not idle, but refused.
    checked = f"{SERVERS} AND query ~ '^SELECT 1 FROM schema_migrations' AND state = 'idle'"
    checking = f"SELECT pid {checked}".encode()

    with watched_health(client) as health:
        for _ in range(5):
            ((pid,),) = eventually(lambda: database.execute(checking).fetchall(), "it checks")
            database.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
            eventually(lambda: database.execute(checking).fetchall(), "it checks again")

        assert health.statuses == [SERVING]
