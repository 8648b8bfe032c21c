"""Two servers on one database, restarted in turn under load: retrying clients see no error."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import pytest

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client
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
