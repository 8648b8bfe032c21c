"""Shutdown by SIGTERM and Ctrl-C: running calls finish, new ones are refused."""

import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.client import Client, connected, refused
from tests.support.concurrency import wait_until_blocked
from tests.support.locks import locked
from tests.support.palaver_process import Serve, StartPalaver
from tests.support.processes import embedded_url, processes_in
from tests.support.watching import NOT_SERVING, eventually, watched_health


def add_blocked(client: Client, database_url: str, session_id: str) -> Any:
    """Start to add a message, and return the call when it waits for the lock."""
    message = Message(role="user", content="late")
    request = AddMemoryRequest(session_id=session_id, messages=[message])
    call = client.memory.AddMemory.future(request)
    with psycopg.connect(database_url, autocommit=True) as connection:
        wait_until_blocked(connection)
    return call


def stopped_cleanly(data_dir: Path) -> bool:
    """Return whether the embedded PostgreSQL has ended after a clean shutdown."""
    last_line = (data_dir / "postgres.log").read_text().splitlines()[-1]
    return last_line.endswith("database system is shut down") and not processes_in(data_dir)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_finishes_running_calls_and_refuses_new_ones(
    way: signal.Signals, serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir), "--shutdown-drain-seconds", "0")
    for _ in range(4):  # more than gRPC buffers for a reader
        client.add(session_id, *["x" * 100_000] * 10)
    stream = client.memory.StreamMessages(
        StreamMessagesRequest(session_id=session_id, chunk_size=1)
    )
    received = [next(stream)]

    with (
        locked(embedded_url(data_dir), session_id) as lock,
        connected(client.address) as newcomer,
    ):
        call = add_blocked(client, embedded_url(data_dir), session_id)
        with watched_health(client) as health:
            palaver.process.send_signal(way)
            health.turns(NOT_SERVING)
        with pytest.raises(grpc.RpcError) as refused:
            newcomer.sessions.GetSession(GetSessionRequest(session_id=session_id), timeout=30)
        assert not call.done()
        lock.commit()
        assert call.result().messages[0].sequence == 41
        received.extend(stream)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert len(received) in {40, 41}
    assert palaver.wait() == 0
    assert stopped_cleanly(data_dir)


def test_shutdown_drain_accepts_calls_after_health_turned(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir), "--shutdown-drain-seconds", "600")
    client.add(session_id, "hello")
    request = GetSessionRequest(session_id=session_id)

    with watched_health(client) as health:
        palaver.process.send_signal(signal.SIGTERM)
        while health.statuses[-1] != NOT_SERVING:
            client.sessions.GetSession(request)
    for _ in range(500):  # for longer than the server waits for more calls
        client.sessions.GetSession(request)

    assert palaver.wait() == 0


def test_shutdown_ends_call_after_grace_period_with_status(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir), "--shutdown-grace-seconds", "0.1")
    client.add(session_id, "early")

    with locked(embedded_url(data_dir), session_id):
        call = add_blocked(client, embedded_url(data_dir), session_id)
        assert palaver.stop() == 0

    with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
        call.result()
    assert [detail.type_url.rpartition(".")[2] for detail in refusal.status.details] == [
        "RetryInfo",
        "ErrorInfo",
    ]
    assert stopped_cleanly(data_dir)


def test_shutdown_ends_stream_after_grace_period_with_cursor(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir), "--shutdown-grace-seconds", "0.5")
    client.add(session_id, *["x" * 500_000] * 30)
    stream = client.memory.StreamMessages(
        StreamMessagesRequest(session_id=session_id, chunk_size=1)
    )
    received = [next(stream)]

    palaver.process.send_signal(signal.SIGTERM)
    palaver.prints("cancelling the running calls")
    with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
        received.extend(stream)

    info = ErrorInfo()
    assert refusal.status.details[1].Unpack(info)
    assert info.reason == "SERVER_STOPPING"
    assert int(info.metadata["next_cursor"]) == received[-1].next_cursor == len(received) < 30
    assert palaver.wait() == 0


def test_shutdown_by_second_signal_leaves_nothing_running(serve: Serve, data_dir: Path) -> None:
    palaver, _ = serve("--data-dir", str(data_dir))
    palaver.process.send_signal(signal.SIGINT)
    palaver.prints("shutting down")

    # Send it until the server has ended. Pause in between: a sleep of gRPC's that is
    # interrupted again within 50 us, the timer slack of Linux, never ends.
    while palaver.process.poll() is None:
        palaver.process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            palaver.process.wait(0.001)

    eventually(lambda: stopped_cleanly(data_dir), "its PostgreSQL is stopped")


@pytest.mark.parametrize(
    ("way", "file"),
    [
        (signal.SIGTERM, "postgres.unfinished*/PG_VERSION"),
        (signal.SIGINT, "postgres/postmaster.pid"),
    ],
    ids=["SIGTERM while initdb runs", "SIGINT while PostgreSQL starts"],
)
def test_shutdown_during_start_leaves_nothing_running(
    way: signal.Signals, file: str, start_palaver: StartPalaver, directory: Path
) -> None:
    data_dir = directory / "new"
    palaver = start_palaver("serve", "--listen=127.0.0.1:0", "--data-dir", str(data_dir))
    eventually(lambda: any(data_dir.glob(file)), f"{file} is there")

    palaver.stop(way)

    assert processes_in(data_dir) == []
    assert "Traceback" not in palaver.output
