"""The primary is lost and its standby promoted, under load: each call that fails says to retry."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client
from tests.support.clusters import FAST
from tests.support.contract import SERVICE_CONFIG
from tests.support.palaver_process import Serve
from tests.support.postgres import EMBEDDED, running_postgres
from tests.support.readers import read_all, repeating
from tests.support.standby import copy
from tests.support.writers import check_history, progress, writing

# A clean stop sends the standby everything. After a crash, it has all that was acknowledged only
# if replication is synchronous.
ENDS = {"stopped": signal.SIGINT, "killed": signal.SIGKILL}


class Failover:
    """A primary with a synchronous standby.

    Attributes:
        url: A URL that names both, and leads to the one that accepts writes.
    """

    def __init__(self, primary: str, standby: str) -> None:
        self._standby = standby
        hosts = [str(conninfo_to_dict(url)["host"]) for url in (primary, standby)]
        self._primary_dir = Path(hosts[0])
        self.url = make_conninfo(
            primary, host=",".join(hosts), port="5432,5432", target_session_attrs="read-write"
        )

    def run(self, way: signal.Signals) -> None:
        """End the primary by this signal, and promote the standby."""
        pid = (self._primary_dir / "postmaster.pid").read_text().partition("\n")[0]
        os.kill(int(pid), way)
        with psycopg.connect(self._standby, autocommit=True) as standby:
            assert standby.execute("SELECT pg_promote()").fetchone() == (True,)


@pytest.fixture
def failover(directory: Path) -> Iterator[Failover]:
    with ExitStack() as stack:
        primary = stack.enter_context(running_postgres(EMBEDDED, settings=FAST))
        copy(primary, directory / "standby")
        standby = stack.enter_context(EmbeddedPostgres(directory / "standby", FAST))
        with psycopg.connect(primary, autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            connection.execute("SELECT pg_reload_conf()")
        yield Failover(primary, standby.url)


def is_told_to_retry(error: grpc.RpcError) -> bool:
    """Return whether the server advised to retry a failed call, or the client never sent it."""
    call = cast("grpc.Call", error)
    if call.code() is not grpc.StatusCode.UNAVAILABLE:
        return False
    status = rpc_status.from_call(call)
    if status is None:  # the health of both servers is NOT_SERVING
        return "backend unhealthy" in (call.details() or "")
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


def read(client: Client, request: GetSessionRequest) -> None:
    """Read a session; the call may fail if it says to retry."""
    try:
        client.sessions.GetSession(request)
    except grpc.RpcError as error:
        if not is_told_to_retry(error):
            raise


@pytest.mark.parametrize("end", ENDS)
def test_failover_fails_only_calls_that_are_told_to_retry(
    end: str, failover: Failover, serve: Serve, session_id: str
) -> None:
    servers = [serve(PALAVER_DATABASE_URL=failover.url)[1] for _ in range(2)]
    both = "ipv4:" + ",".join(client.address for client in servers)
    options = [("grpc.service_config", SERVICE_CONFIG)]
    request = GetSessionRequest(session_id=f"{session_id}-0")

    with (
        grpc.insecure_channel(both, options) as channel,
        writing(both, session_id, service_config=SERVICE_CONFIG) as writers,
    ):
        caller = Client(channel, both)
        with (
            repeating(partial(read, caller, request)),
            repeating(partial(read_all, caller, request.session_id)),
        ):
            failover.run(ENDS[end])
            progress(writers)

    check_history(servers[0], writers)
    for error in (failure for writer in writers for failure in writer.failures):
        assert is_told_to_retry(error), error
