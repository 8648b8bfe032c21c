"""Crashes: killed servers and databases keep acknowledged messages, and the service recovers."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_status import rpc_status

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client
from tests.support.concurrency import Connection
from tests.support.endpoint import Endpoint
from tests.support.palaver_process import Serve
from tests.support.processes import PalaverProcess, postmaster_pid, processes_in
from tests.support.rows import wait_until_embedded
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of
from tests.support.writers import check_history, progress, writing


def test_crash_of_server_keeps_acknowledged_messages(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir))
    postgres = psutil.Process(postmaster_pid(data_dir))

    with writing(client.address, session_id) as writers:
        palaver.kill()
        assert postgres.is_running(), "a killed server does not stop its PostgreSQL"
        _, client = serve("--data-dir", str(data_dir), "--listen", client.address)
        progress(writers)

    check_history(client, writers)
    cluster = processes_in(data_dir / "postgres")
    postmasters = [process for process in cluster if process.parent() not in cluster]
    assert [process.pid for process in postmasters] == [postmaster_pid(data_dir)]
    assert postgres not in cluster


def assert_may_be_retried(failure: grpc.RpcError) -> None:
    assert isinstance(failure, grpc.Call)
    assert failure.code() is grpc.StatusCode.UNAVAILABLE, failure
    status = rpc_status.from_call(failure)
    assert status is not None, failure
    (detail,) = status.details
    assert detail.Is(RetryInfo.DESCRIPTOR)


@pytest.fixture(params=["embedded", "external"])
def served(
    request: pytest.FixtureRequest, serve: Serve, data_dir: Path
) -> Iterator[tuple[PalaverProcess, Client]]:
    """A server on its embedded PostgreSQL, or on an external one."""
    if request.param == "embedded":
        yield serve("--data-dir", str(data_dir))
    else:
        with EmbeddedPostgres(data_dir) as postgres:  # external, as far as the server knows
            yield serve(PALAVER_DATABASE_URL=postgres.url)


def test_crash_of_postgres_keeps_acknowledged_messages_and_recovers(
    served: tuple[PalaverProcess, Client], data_dir: Path, session_id: str
) -> None:
    palaver, client = served

    with writing(client.address, session_id) as writers:
        os.kill(postmaster_pid(data_dir), signal.SIGKILL)
        eventually(lambda: health_of(client) == NOT_SERVING, "the loss is noticed")
        eventually(lambda: health_of(client) == SERVING, "the database is found again")
        client.get_session(writers[0].session_id)
        progress(writers)

    check_history(client, writers)
    failures = [failure for writer in writers for failure in writer.failures]
    assert failures, "no call failed: the crash had no effect"
    for failure in failures:
        assert_may_be_retried(failure)
    assert palaver.process.poll() is None
    # gRPC's fork hooks may crash either process.
    assert "fork" not in palaver.output


def test_crash_of_embedding_server_leaves_work_to_another(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)
    endpoint.hold()
    client.add("s", *(f"text {n}" for n in range(100)))
    endpoint.wait_until_asked()

    palaver.kill()
    endpoint.release()
    assert database.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)
    serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)

    wait_until_embedded(database, 100)
    assert database.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)


def test_crash_during_backfill_continues_it(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url)
    for number in range(3):
        client.add("s", *(f"text {number} {n}" for n in range(400)))
    palaver.kill()
    endpoint.hold()
    palaver, _ = serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)
    endpoint.wait_until_asked()
    palaver.kill()
    query = "SELECT walk_count FROM embedding_models"
    assert database.execute(query).fetchone() == (500,), "the backfill is half done"

    endpoint.release()
    serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)

    wait_until_embedded(database, 1200)
    assert database.execute(query).fetchone() == (1200,)
