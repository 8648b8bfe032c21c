"""Killed processes: what was acknowledged is there once, and the service comes back."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.process.conftest import Serve
from tests.support.client import Client
from tests.support.processes import PalaverProcess, postmaster_pid, processes_in
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of
from tests.support.writers import check_history, progress, writing


def test_a_killed_server_has_kept_every_acknowledged_message(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir))
    postgres = psutil.Process(postmaster_pid(data_dir))

    with writing(client.address, session_id) as writers:
        palaver.kill()
        assert postgres.is_running(), "a killed server can stop nothing"
        _, client = serve("--data-dir", str(data_dir), "--listen", client.address)
        progress(writers)

    check_history(client, writers)
    cluster = processes_in(data_dir / "postgres")
    postmasters = [process for process in cluster if process.parent() not in cluster]
    assert [process.pid for process in postmasters] == [postmaster_pid(data_dir)]
    assert postgres not in cluster


@pytest.fixture(params=["embedded", "external"])
def served(
    request: pytest.FixtureRequest, serve: Serve, data_dir: Path
) -> Iterator[tuple[PalaverProcess, Client]]:
    """A server on its own PostgreSQL, or on one that something else keeps running."""
    if request.param == "embedded":
        yield serve("--data-dir", str(data_dir))
    else:
        with EmbeddedPostgres(data_dir) as postgres:  # elsewhere, as far as the server knows
            yield serve("--database-url", postgres.url)


def test_a_killed_postgres_has_kept_every_acknowledged_message_and_is_found_again(
    served: tuple[PalaverProcess, Client], data_dir: Path, session_id: str
) -> None:
    palaver, client = served

    with writing(client.address, session_id) as writers:
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        eventually(lambda: health_of(client) == NOT_SERVING, "the loss is noticed")
        eventually(lambda: health_of(client) == SERVING, "the database is found again")
        client.sessions.GetSession(GetSessionRequest(session_id=writers[0].session_id))
        progress(writers)

    check_history(client, writers)
    failures = [failure for writer in writers for failure in writer.failures]
    assert failures, "nobody felt the loss"
    for failure in failures:
        assert_may_be_retried(failure)
    assert palaver.process.poll() is None
    # What gRPC hooks into a fork may crash the new process, or the old one.
    assert "fork" not in palaver.output


def assert_may_be_retried(failure: grpc.RpcError) -> None:
    assert isinstance(failure, grpc.Call)
    assert failure.code() is grpc.StatusCode.UNAVAILABLE, failure
    status = rpc_status.from_call(failure)
    assert status is not None, failure
    (detail,) = status.details
    assert detail.Is(RetryInfo.DESCRIPTOR)
