"""The databases, servers and load generator that the bench measures with."""

import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click
import psutil

from bench import servers
from bench.calls import Call
from bench.database import Database
from bench.ghz import Flood, Ghz
from bench.loading import create
from bench.measurement import Comparison, Round, interleaved
from bench.servers import Palaver
from palaver_server.process.embedded_postgres import EmbeddedPostgres

# A quarter of the memory for PostgreSQL, as its documentation advises for a dedicated server.
# Commits are durable, as by default. No checkpoint starts during a round.
POSTGRES_SETTINGS = {
    "shared_buffers": f"{psutil.virtual_memory().total // 4 // 2**20}MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "checkpoint_timeout": "1h",
    "max_wal_size": "16GB",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """The servers, the load generator, and the length of the rounds.

    Args:
        directory: Directory for files and logs, removed at the end.
        full: A Palaver over the database of full size.
        small: One over a hundredth of that.
        bare: The bare server over the database of full size.
        empty_address: Address of the empty server.
        ghz: None if it is not installed.
        rounds: Number of rounds of each side, after one warm-up.
        seconds: Length of a round.
    """

    directory: Path
    full: Palaver
    small: Palaver
    bare: Palaver
    empty_address: str
    ghz: Ghz | None
    rounds: int
    seconds: float

    def load(self, call: Call, palaver: Palaver) -> Round:
        """Load a Palaver with calls, and count the messages that they add."""
        loaded = self._load(call, palaver.address, palaver.database)
        palaver.database.added += loaded.done * call.messages
        pieces = call.messages or 1
        return replace(loaded, done=loaded.done * pieces, rate=loaded.rate * pieces)

    def load_empty(self, call: Call) -> Round:
        """Load the empty server with the same calls."""
        return self._load(call, self.empty_address, self.full.database)

    def flood(self, call: Call, palaver: Palaver, flood: Flood) -> Round:
        """Flood a Palaver with calls that add no messages."""
        requests = call.requests(palaver.database)
        return self._installed.flood(palaver.address, call, requests, flood)

    def compare(self, work: Callable[[], Round], floor: Callable[[], Round]) -> Comparison:
        """Measure work and its floor in turns."""
        return interleaved(work, floor, rounds=self.rounds)

    @property
    def log(self) -> Path:
        """The log file of the servers."""
        return self.directory / "servers.log"

    def another_palaver(self, *, workers: int = 1) -> AbstractContextManager[Palaver]:
        """Run another Palaver over the full database during the block."""
        return servers.palaver(self.full.database, self.log, workers=workers)

    def _load(self, call: Call, address: str, database: Database) -> Round:
        return self._installed.load(address, call, call.requests(database), seconds=self.seconds)

    @property
    def _installed(self) -> Ghz:
        if self.ghz is None:
            raise RuntimeError("ghz is not installed")
        return self.ghz


def progress(line: str) -> None:
    """Print the next step to standard error."""
    click.echo(line, file=sys.stderr)


@contextmanager
def set_up(
    *, sessions: int, ghz_program: str | None, rounds: int, seconds: float
) -> Iterator[Stage]:
    """Start everything, with `sessions` in the full database; stop it after the block."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="palaver-bench-")))
        progress(f"starting PostgreSQL in {directory}")
        postgres = stack.enter_context(EmbeddedPostgres(directory, POSTGRES_SETTINGS))
        # The full database last: a checkpoint covers all databases of the server.
        small = create(postgres.url, "small", max(1, sessions // 100), progress)
        full = create(postgres.url, "full", sessions, progress)
        progress("starting the servers")
        log = directory / "servers.log"
        yield Stage(
            directory=directory,
            full=stack.enter_context(servers.palaver(full, log)),
            small=stack.enter_context(servers.palaver(small, log)),
            bare=stack.enter_context(servers.bare_server(full, log)),
            empty_address=stack.enter_context(servers.empty_server(log)),
            ghz=Ghz(ghz_program, directory) if ghz_program else None,
            rounds=rounds,
            seconds=seconds,
        )
