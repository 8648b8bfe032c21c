"""Health: of all and of each service, while the database is there."""

from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.descriptor_pool import Default as DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1.health_pb2 import HealthCheckResponse

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.bootstrap.services import SERVICES
from tests.conftest import StartServer
from tests.support.client import Client
from tests.support.concurrency import begin, wait_until_blocked
from tests.support.contract import send
from tests.support.watching import SERVING, health_of, watch_health, watched_health


def test_a_server_serves_as_a_whole_and_in_each_of_its_services(palaver: Client) -> None:
    for service in ("", *SERVICES):
        assert health_of(palaver, service) == SERVING, service


def test_an_unknown_service_is_not_found_and_its_watch_waits_for_it(palaver: Client) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        health_of(palaver, "palaver.v1.NoSuchService")
    watch = watch_health(palaver, "palaver.v1.NoSuchService")

    assert raised.value.code() is grpc.StatusCode.NOT_FOUND
    assert next(watch).status == HealthCheckResponse.SERVICE_UNKNOWN
    assert watch.is_active()
    watch.cancel()


def test_the_health_of_all_services_is_listed(palaver: Client) -> None:
    statuses = list_health(palaver)

    assert statuses == dict.fromkeys(("", *SERVICES), SERVING)


def list_health(palaver: Client) -> dict[str, int]:
    """Calls `List`, which the types of the stubs do not know of yet."""
    method = DescriptorPool().FindMethodByName("grpc.health.v1.Health.List")
    (response,) = send(palaver.channel, method, GetMessageClass(method.input_type)())
    statuses: Any = response
    return {service: answer.status for service, answer in statuses.statuses.items()}


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
