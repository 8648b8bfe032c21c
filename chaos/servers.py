"""The servers: real processes, each with a fixed port, restarted when they end."""

import asyncio
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bench.servers import free_port
from palaver_server.addresses import split
from tests.support.model.expected import BrokenPromise
from tests.support.processes import PalaverProcess

_POLL_SECONDS = 0.2

# The drain and the grace period, with a margin for a busy machine.
_MAX_STOP_SECONDS = 30

_ARGUMENTS = (
    "--log-level=WARNING",
    "--purge-interval-seconds=5",
    "--shutdown-drain-seconds=1",
    "--shutdown-grace-seconds=2",
)

# Only a bug logs one of these.
_SIGNS_OF_A_BUG = re.compile(r".*(?:Traceback|incident| ERROR | CRITICAL |Exception ignored).*")


class Server:
    """`palaver serve`, started again by `keep_running`.

    Args:
        directory: The directory for the logs, one for each start.
    """

    def __init__(self, database_url: str, directory: Path) -> None:
        directory.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self._arguments = ("serve", f"--listen={self.address}", *_ARGUMENTS)
        self._variables = {"PALAVER_DATABASE_URL": database_url}
        self._directory = directory
        self._palaver = self._start()

    def _start(self) -> PalaverProcess:
        return PalaverProcess(self._arguments, self._directory, self._variables)

    @property
    def workers(self) -> list[psutil.Process]:
        """Return the processes that serve now."""
        return self._palaver.workers

    async def keep_running(self) -> None:
        """Restart the server whenever it ends, until cancelled."""
        while True:
            if self._palaver.process.poll() is not None:
                self._palaver = self._start()
            await asyncio.sleep(_POLL_SECONDS)

    async def listens(self) -> None:
        """Wait until the server accepts connections."""
        host, port = split(self.address)
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except OSError:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                writer.close()
                return

    async def stop(self) -> None:
        """Stop the server by SIGTERM.

        Raises:
            BrokenPromise: The server does not end in time, or with an error.
        """
        process = self._palaver.process
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(process.wait, _MAX_STOP_SECONDS)
        if process.returncode != 0:
            raise BrokenPromise(f"{self._directory.name}: {process.returncode} after SIGTERM")

    def kill(self) -> None:
        """Kill the server."""
        self._palaver.kill()

    def signs_of_a_bug(self) -> Iterator[str]:
        """Yield the lines of the logs that only a bug writes."""
        for log in sorted(self._directory.glob("*.log")):
            for line in _SIGNS_OF_A_BUG.findall(log.read_text(errors="replace")):
                yield f"{self._directory.name}/{log.name}: {line}"


@contextmanager
def serving(database_url: str, directory: Path, count: int) -> Iterator[Sequence[Server]]:
    """Run servers on a database in the block."""
    servers: list[Server] = []
    try:
        for number in range(count):
            servers.append(Server(database_url, directory / f"server-{number}"))  # noqa: PERF401
        yield servers
    finally:
        for server in servers:
            server.kill()
