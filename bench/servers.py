"""The measured processes: `palaver serve`, the bare server and the empty server."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bench.database import Database

ROOT = Path(__file__).parents[1]

_SECONDS_TO_START = 60
_SECONDS_TO_END = 30
_SECONDS_BETWEEN_TRIES = 0.002


@dataclass(frozen=True, slots=True)
class Palaver:
    """A running `palaver serve`, or the bare server in its place, and its database."""

    address: str
    pid: int
    database: Database


@contextmanager
def palaver(
    database: Database,
    log: Path,
    *,
    embedder: str = "none",
    workers: int = 1,
    settings: Sequence[str] = (),
) -> Iterator[Palaver]:
    """Run `palaver serve` during the block, which begins when it is SERVING; log to a file."""
    address = f"127.0.0.1:{free_port()}"
    command = [
        "palaver_server", "serve", f"--listen={address}", f"--database-url={database.url}",
        "--purge-interval-seconds=0", f"--embedder={embedder}", f"--workers={workers}",
        *settings,
    ]  # fmt: skip
    with _process(command, log) as process:
        _wait_until_listening(process, address)
        _wait_until_serving(address)
        worker, *_ = psutil.Process(process.pid).children()
        yield Palaver(address, worker.pid, database)


@contextmanager
def bare_server(database: Database, log: Path) -> Iterator[Palaver]:
    """Run the bare server during the block."""
    port = free_port()
    with _process(["bench.bare_server", str(port), database.url], log) as process:
        _wait_until_listening(process, f"127.0.0.1:{port}")
        yield Palaver(f"127.0.0.1:{port}", process.pid, database)


@contextmanager
def empty_server(log: Path) -> Iterator[str]:
    """Run the empty server during the block, and yield its address."""
    port = free_port()
    with _process(["bench.empty_server", str(port)], log) as process:
        _wait_until_listening(process, f"127.0.0.1:{port}")
        yield f"127.0.0.1:{port}"


@contextmanager
def _process(module: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port() -> int:
    """Return a port of this machine that is not in use."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def _wait_until_listening(process: subprocess.Popen[bytes], address: str) -> None:
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{process.args!r} did not start; see its log") from None
            time.sleep(_SECONDS_BETWEEN_TRIES)
        else:
            return


def _wait_until_serving(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        health: Any = HealthStub(channel)
        while True:
            answer = health.Check(
                HealthCheckRequest(), wait_for_ready=True, timeout=_SECONDS_TO_START
            )
            if answer.status == HealthCheckResponse.SERVING:
                return
            time.sleep(_SECONDS_BETWEEN_TRIES)
