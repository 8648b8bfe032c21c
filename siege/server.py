"""The server under siege: `palaver serve` with API keys, on a PostgreSQL of its own."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from palaver_server.auth.api_keys import key_hash, make_key
from palaver_server.auth.credentials_file import key_entry
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role
from tests.support.processes import PalaverProcess
from tests.support.scrapes import Scrape, metrics_url, scraped

_MEBIBYTE = 1024 * 1024


class Keys:
    """API keys in a credentials file: one of the attacker, and those of the other callers.

    Args:
        path: The path of the file, which is written.
        others: The number of the other callers.
    """

    def __init__(self, path: Path, others: int) -> None:
        self.path = path
        # An admin may purge and reindex, which are attacks too.
        principals = [Principal("attacker", Role.ADMIN, None)]
        principals += [Principal(f"caller {n}", Role.WRITER, None) for n in range(others)]
        self.attacker, *self.others = keys = [make_key() for _ in principals]
        path.write_text("\n".join(map(key_entry, principals, map(key_hash, keys))))


class Server:
    """A running server.

    Args:
        palaver: Its process.

    Attributes:
        address: The address that it listens on.
    """

    def __init__(self, palaver: PalaverProcess) -> None:
        self._palaver = palaver
        self.address = palaver.prints(r"listening on ([^\s\"]+)")[1]

    @property
    def ended(self) -> int | None:
        """The exit status; None while it runs."""
        return self._palaver.process.poll()

    @property
    def memory(self) -> float:
        """The resident memory of the processes that serve in MiB."""
        try:
            workers = self._palaver.workers
            return float(sum(worker.memory_info().rss for worker in workers) / _MEBIBYTE)
        except psutil.NoSuchProcess:
            return 0

    def scrape(self) -> Scrape:
        """Read the metrics."""
        return scraped(metrics_url(self._palaver.output))

    def errors(self) -> Sequence[str]:
        """Return the lines of the log about errors."""
        signs = (" ERROR ", " CRITICAL ", "Traceback", "incident")
        return [line for line in self._palaver.output.splitlines() if any(map(line.count, signs))]


@contextmanager
def serving(
    database_url: str, keys: Keys, embedder: dict[str, str], directory: Path
) -> Iterator[Server]:
    """Run a server with the default limits during the block."""
    arguments = (
        "serve",
        "--listen=127.0.0.1:0",
        "--metrics-listen=127.0.0.1:0",
        f"--credentials={keys.path}",
    )
    variables = {"PALAVER_DATABASE_URL": database_url, **embedder}
    palaver = PalaverProcess(arguments, directory, variables)
    try:
        yield Server(palaver)
    finally:
        palaver.kill()
