"""Worker processes on one port: they share callers, are replaced, and end together."""

import os
import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import ListSessionsRequest
from tests.process.test_shutdown import add_blocked, stopped_cleanly
from tests.support.client import Client
from tests.support.locks import locked
from tests.support.palaver_process import RunPalaver, Serve, StartPalaver
from tests.support.processes import PalaverProcess, embedded_url, processes_in
from tests.support.watching import eventually

MESSAGE = Message(role="user", content="after")

WORKERS = ("--workers", "2", "--embedder", "none")


def serving(palaver: PalaverProcess, address: str) -> list[psutil.Process]:
    """Return the workers that at least one of 30 callers reaches."""
    port = int(address.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(30):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = stack.enter_context(grpc.insecure_channel(address, options))
            Client(channel, address).sessions.ListSessions(
                ListSessionsRequest(), wait_for_ready=True, timeout=60
            )
        return [worker for worker in palaver.workers if is_called(worker, port)]


def is_called(process: psutil.Process, port: int) -> bool:
    """Return whether a process has a connection with a caller of the port."""
    connections = process.net_connections("tcp")
    return any(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in connections)


def test_workers_share_callers_and_end_together(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    palaver, client = serve("--data-dir", str(data_dir), *WORKERS)

    client.add(session_id, "hello")
    eventually(lambda: len(serving(palaver, client.address)) == 2, "both serve", within=60)
    workers = palaver.workers
    palaver.process.send_signal(signal.SIGTERM)

    assert palaver.process.wait(60) == 0
    assert not any(worker.is_running() for worker in workers)
    assert not processes_in(data_dir)


def test_worker_that_is_killed_is_replaced(serve: Serve, data_dir: Path) -> None:
    palaver, client = serve("--data-dir", str(data_dir), *WORKERS)
    killed, other = palaver.workers

    killed.kill()
    palaver.prints("a worker process was killed by signal 9")

    eventually(lambda: len(serving(palaver, client.address)) == 2, "two serve", within=60)
    now = palaver.workers
    assert other in now
    assert killed not in now


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "unix:{}/socket"])
def test_worker_that_is_the_only_one_is_replaced_too(
    serve: Serve, data_dir: Path, directory: Path, session_id: str, listen: str
) -> None:
    listen = listen.format(directory)
    palaver, client = serve("--listen", listen, "--data-dir", str(data_dir))
    client.add(session_id, "before")
    (killed,) = palaver.workers

    for times in (1, 2):
        killed.kill()
        eventually(lambda: palaver.workers not in ([], [killed]), "it is replaced")  # noqa: B023
        (killed,) = palaver.workers
        request = AddMemoryRequest(session_id=session_id, messages=[MESSAGE])
        client.memory.AddMemory(request, wait_for_ready=True, timeout=60)

        assert palaver.output.count("a worker process was killed by signal 9") == times
    assert len(client.messages(session_id)) == 3
    assert palaver.stop() == 0
    assert not processes_in(data_dir)


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGINT])
def test_workers_get_a_signal_for_the_whole_group_once(
    way: signal.Signals, serve: Serve, data_dir: Path, session_id: str
) -> None:
    """As Ctrl-C sends it, and systemd."""
    palaver, client = serve("--data-dir", str(data_dir), "--shutdown-drain-seconds", "0")
    client.add(session_id, "early")

    with locked(embedded_url(data_dir), session_id) as lock:
        call = add_blocked(client, embedded_url(data_dir), session_id)
        os.killpg(palaver.process.pid, way)
        palaver.prints("shutting down")
        lock.commit()
        assert call.result().messages[0].sequence == 2

    assert palaver.wait() == 0
    assert "Traceback" not in palaver.output
    assert stopped_cleanly(data_dir)


def test_worker_is_not_replaced_during_shutdown(serve: Serve, data_dir: Path) -> None:
    palaver, _ = serve("--data-dir", str(data_dir), "--shutdown-drain-seconds", "600")
    (worker,) = palaver.workers
    worker.suspend()

    palaver.process.send_signal(signal.SIGTERM)
    worker.kill()

    assert palaver.wait() == 0
    assert not processes_in(data_dir)


def test_workers_do_not_outlive_their_parent(serve: Serve, data_dir: Path) -> None:
    palaver, _ = serve("--data-dir", str(data_dir), *WORKERS)
    workers = palaver.workers

    palaver.process.kill()

    eventually(lambda: not any(worker.is_running() for worker in workers), "they end", within=60)


def test_workers_on_port_in_use_are_refused(run_palaver: RunPalaver, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        ended = run_palaver("serve", "--listen", address, "--data-dir", str(data_dir), *WORKERS)

    assert ended.status == 1
    assert f"cannot listen on {address}: Address already in use" in ended.printed


def test_workers_end_when_one_cannot_run(start_palaver: StartPalaver, data_dir: Path) -> None:
    palaver = start_palaver(
        "serve", "--listen", "127.0.0.1:0", "--data-dir", str(data_dir), *WORKERS,
        "--search-language", "klingon",
    )  # fmt: skip

    assert palaver.process.wait(60) == 1
    palaver.prints("Error: the database has no text search configuration 'klingon'")
