"""Servers restarted under load, alone or in turn: clients with the service config see no error."""

from collections.abc import Iterator
from contextlib import ExitStack
from operator import gt
from pathlib import Path
from typing import cast

import grpc
import pytest

from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client, wait_until
from tests.support.clusters import FAST
from tests.support.contract import SERVICE_CONFIG
from tests.support.palaver_process import Serve
from tests.support.readers import read_all, repeating
from tests.support.writers import RECONNECTING_AT_ONCE, check_history, progress, writing

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE

# Only restarts may fail calls, not a busy machine.
PATIENT = {
    "PALAVER_POOL_TIMEOUT_SECONDS": "120",
    "PALAVER_DEFAULT_DEADLINE_SECONDS": "120",
    "PALAVER_SHUTDOWN_GRACE_SECONDS": "60",
}


@pytest.fixture
def database_url(data_dir: Path) -> Iterator[str]:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        yield postgres.url


class Adding:
    """Adds sessions, one after the other."""

    def __init__(self, client: Client, name: str) -> None:
        self.count = 0
        self._client = client
        self._name = name

    def add(self) -> None:
        """Add a session, once."""
        session_id = f"{self._name}-{self.count}"
        self._client.sessions.AddSession(AddSessionRequest(session_id=session_id))
        self.count += 1


def test_restart_of_only_server_fails_no_call_of_clients_with_service_config(
    serve: Serve, database_url: str, session_id: str
) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url, **PATIENT)
    client.add(session_id, "hello")
    get = GetSessionRequest(session_id=session_id)

    with (
        grpc.insecure_channel(client.address, [("grpc.service_config", SERVICE_CONFIG)]) as channel,
        ExitStack() as stack,
    ):
        caller = Client(channel, client.address)
        callers = [Adding(caller, f"{session_id}-{number}") for number in range(4)]
        for adding in callers:
            stack.enter_context(repeating(adding.add))
            stack.enter_context(repeating(lambda: caller.sessions.GetSession(get)))

        def wait_for_more() -> None:
            goals = [adding.count + 5 for adding in callers]
            wait_until(lambda: all(map(gt, (adding.count for adding in callers), goals)))

        wait_for_more()
        assert palaver.stop() == 0
        serve("--listen", client.address, PALAVER_DATABASE_URL=database_url, **PATIENT)
        wait_for_more()


def test_rolling_restart_fails_no_call_of_retrying_clients(
    serve: Serve, database_url: str, session_id: str
) -> None:
    servers = [serve(PALAVER_DATABASE_URL=database_url, **PATIENT) for _ in range(2)]
    both = "ipv4:" + ",".join(client.address for _, client in servers)
    # Else the channel may still wait to reconnect to the first server when the second one stops.
    options = [*RECONNECTING_AT_ONCE, ("grpc.service_config", SERVICE_CONFIG)]
    request = GetSessionRequest(session_id=f"{session_id}-0")

    with (
        grpc.insecure_channel(both, options) as channel,
        writing(both, session_id, service_config=SERVICE_CONFIG, timeout=120) as writers,
    ):
        caller = Client(channel, both)
        with (
            repeating(lambda: caller.sessions.GetSession(request)),
            repeating(lambda: read_all(caller, request.session_id)),
        ):
            for palaver, client in servers:
                assert palaver.stop() == 0
                progress(writers)
                serve("--listen", client.address, PALAVER_DATABASE_URL=database_url, **PATIENT)
                progress(writers)

    check_history(servers[0][1], writers)
    calls = [cast("grpc.Call", failure) for writer in writers for failure in writer.failures]
    assert {call.code() for call in calls} <= {UNAVAILABLE}
