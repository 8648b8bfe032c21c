"""Worker processes on one port: they share callers, are replaced, and end together."""

import signal
import socket
from contextlib import ExitStack
from pathlib import Path

import grpc
import psutil

from palaver.v1.session_service_pb2 import ListSessionsRequest
from tests.support.client import Client
from tests.support.palaver_process import RunPalaver, Serve, StartPalaver
from tests.support.processes import PalaverProcess, processes_in
from tests.support.watching import eventually

WORKERS = ("--workers", "2", "--embedder", "none")


def workers_of(palaver: PalaverProcess) -> list[psutil.Process]:
    """Return the worker processes."""
    children = psutil.Process(palaver.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


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
        return [worker for worker in workers_of(palaver) if is_called(worker, port)]


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
    workers = workers_of(palaver)
    palaver.process.send_signal(signal.SIGTERM)

    assert palaver.process.wait(60) == 0
    assert not any(worker.is_running() for worker in workers)
    assert not processes_in(data_dir)


def test_worker_that_is_killed_is_replaced(serve: Serve, data_dir: Path) -> None:
    palaver, client = serve("--data-dir", str(data_dir), *WORKERS)
    killed, other = workers_of(palaver)

    killed.kill()
    palaver.prints("a worker process was killed by signal 9")

    eventually(lambda: len(serving(palaver, client.address)) == 2, "two serve", within=60)
    now = workers_of(palaver)
    assert other in now
    assert killed not in now


def test_workers_do_not_outlive_their_parent(serve: Serve, data_dir: Path) -> None:
    palaver, _ = serve("--data-dir", str(data_dir), *WORKERS)
    workers = workers_of(palaver)

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
    palaver.prints("the database has no text search configuration 'klingon'")
    palaver.prints("Error: a worker process exited with status 1")
