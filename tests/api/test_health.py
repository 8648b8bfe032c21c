"""Health of the server and of each service, with a reachable database."""

from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.descriptor_pool import Default as DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckResponse

from palaver_server.bootstrap.services import SERVICES
from tests.conftest import StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection, begin, wait_until_blocked
from tests.support.contract import send
from tests.support.watching import NOT_SERVING, SERVING, health_of, watch_health, watched_health


def test_health_server_and_each_service_serve(palaver: Client) -> None:
    for service in ("", *SERVICES):
        assert health_of(palaver, service) == SERVING, service


def test_health_unknown_service_is_not_found_and_can_be_watched(palaver: Client) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        health_of(palaver, "palaver.v1.NoSuchService")
    watch = watch_health(palaver, "palaver.v1.NoSuchService")

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


def list_health(palaver: Client) -> dict[str, int]:
    """Call `List`, which the stubs have no types for."""
    method = DescriptorPool().FindMethodByName("grpc.health.v1.Health.List")
    (response,) = send(palaver.channel, method, GetMessageClass(method.input_type)())
    statuses: Any = response
    return {service: answer.status for service, answer in statuses.statuses.items()}


def test_health_list_names_all_services(palaver: Client) -> None:
    statuses = list_health(palaver)

    assert statuses == dict.fromkeys(("", *SERVICES), SERVING)


def test_health_unreadable_tables_stop_serving_until_they_are_readable(
    start_server: StartServer, database: Connection
) -> None:
    client = start_server(health_interval_seconds=0.05)
    database.execute("ALTER TABLE schema_migrations RENAME TO lost")
    database.execute(
        "CREATE VIEW schema_migrations AS SELECT 1 WHERE 1 / (0 * random())::integer = 1"
    )
    wait_until(lambda: health_of(client) == NOT_SERVING)

    database.execute("DROP VIEW schema_migrations")
    database.execute("ALTER TABLE lost RENAME TO schema_migrations")

    wait_until(lambda: health_of(client) == SERVING)


def test_health_busy_pool_keeps_serving(
    start_server: StartServer, database_url: str, database: Connection
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
                client.get_session("s")
            assert health.statuses == [SERVING]

    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert blocked.result().messages[0].sequence == 2
