"""What goes wrong in the service: bugs, a database that is busy or away, too large a request."""

import grpc
import psycopg
from google.rpc.error_details_pb2 import RetryInfo

from tests.conftest import StartServer
from tests.support.client import Client, refused
from tests.support.concurrency import Connection


def test_outage_unreachable_database_is_unavailable(
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
