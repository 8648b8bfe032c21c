"""The server that is fuzzed: `palaver serve` as a process, on a PostgreSQL of its own."""

import asyncio
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from bench import servers
from bench.database import Database
from palaver_server.database.migrate import migrate
from palaver_server.process.embedded_postgres import EmbeddedPostgres

# The data is temporary, so durability is off.
_POSTGRES_SETTINGS = {"fsync": "off", "synchronous_commit": "off"}

_MAX_LINES = 20
_SECONDS_TO_ANSWER = 10.0
_MEBIBYTE = 1024 * 1024

_TRACE = re.compile(r"Traceback|incident ")


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """A fuzzed server, with its health, memory and log.

    Args:
        address: Address that it listens on.
        pid: Id of its process.
        log: Its log file.
    """

    address: str
    pid: int
    log: Path

    @property
    def memory(self) -> float:
        """Its resident memory, in MiB."""
        return float(psutil.Process(self.pid).memory_info().rss / _MEBIBYTE)

    @property
    def is_serving(self) -> bool:
        """Whether its health check answers SERVING."""
        with grpc.insecure_channel(self.address) as channel:
            health: Any = HealthStub(channel)
            try:
                answer = health.Check(HealthCheckRequest(), timeout=_SECONDS_TO_ANSWER)
            except grpc.RpcError:
                return False
        return bool(answer.status == HealthCheckResponse.SERVING)

    def troubles(self) -> list[str]:
        """Return the first lines of the log that show a bug."""
        with self.log.open(errors="replace") as lines:
            found = (line.rstrip() for line in lines if _is_trouble(line))
            return [line for line, _ in zip(found, range(_MAX_LINES), strict=False)]


def _is_trouble(line: str) -> bool:
    """Return whether a line is not a JSON log line, is an error, or has a traceback."""
    try:
        level = json.loads(line)["level"]
    except (ValueError, TypeError, KeyError):
        return True
    return level in ("ERROR", "CRITICAL") or bool(_TRACE.search(line))


@contextmanager
def fuzzed_server() -> Iterator[Fuzzed]:
    """Run a server during the block, with an embedder if one is installed."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="palaver-fuzz-")))
        postgres = stack.enter_context(EmbeddedPostgres(directory, _POSTGRES_SETTINGS))
        asyncio.run(migrate(postgres.url))
        log = directory / "server.log"
        database = Database(postgres.url, sessions=0)
        palaver = stack.enter_context(servers.palaver(database, log, embedder="auto"))
        yield Fuzzed(palaver.address, palaver.pid, log)
