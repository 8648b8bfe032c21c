"""A PostgreSQL with a hot standby, by streaming replication."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from palaver_server.process.postgres_program import installed_program
from palaver_server.process.service_account import ServiceAccount
from tests.support.clusters import FAST
from tests.support.processes import processes_in
from tests.support.watching import eventually

_SETTINGS = {**FAST, "max_connections": "200"}

# A read that conflicts with the replay is cancelled at once.
_STANDBY = {**_SETTINGS, "max_standby_streaming_delay": "0"}


@dataclass(frozen=True)
class Pair:
    """A primary and its standby, by URLs and by the directory of each."""

    primary: str
    standby: str
    primary_dir: Path
    standby_dir: Path

    def catch_up(self) -> None:
        """Wait until the standby has replayed what is committed."""
        with psycopg.connect(self.standby) as standby:
            lsn = current_lsn(self.primary)

            def has_replayed() -> bool:
                query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
                (replayed,) = standby.execute(query, [lsn]).fetchone() or ()
                return bool(replayed)

            eventually(has_replayed, "the standby catches up")

    @contextmanager
    def paused_replay(self) -> Iterator[None]:
        """Pause the replay during the block."""
        with psycopg.connect(self.standby, autocommit=True) as standby:
            standby.execute("SELECT pg_wal_replay_pause()")
            is_paused = "SELECT pg_get_wal_replay_pause_state() = 'paused'"
            eventually(lambda: (standby.execute(is_paused).fetchone() or ())[0], "it pauses")
            try:
                yield
            finally:
                standby.execute("SELECT pg_wal_replay_resume()")

    @property
    def standby_processes(self) -> list[psutil.Process]:
        """The processes of the standby."""
        return processes_in(self.standby_dir)

    @property
    def primary_processes(self) -> list[psutil.Process]:
        """The processes of the primary."""
        return processes_in(self.primary_dir)


@contextmanager
def replicated(directory: Path) -> Iterator[Pair]:
    """Run a primary and a standby of it in a directory during the block."""
    primary_dir, standby_dir = directory / "primary", directory / "standby"
    with EmbeddedPostgres(primary_dir, _SETTINGS) as primary:
        copy(primary.url, standby_dir)
        with EmbeddedPostgres(standby_dir, _STANDBY) as standby:
            yield Pair(primary.url, standby.url, primary_dir, standby_dir)


def current_lsn(primary: str) -> str:
    """Return the position of a primary's log."""
    with psycopg.connect(primary) as connection:
        (lsn,) = connection.execute("SELECT pg_current_wal_lsn()").fetchone() or ()
        return str(lsn)


@contextmanager
def promoted_copy(primary: str, directory: Path) -> Iterator[str]:
    """Run a copy of a primary, promoted to a new timeline, during the block; yield its URL."""
    copy(primary, directory)
    with EmbeddedPostgres(directory, _SETTINGS) as new:
        with psycopg.connect(new.url, autocommit=True) as connection:
            connection.execute("SELECT pg_promote()")
        yield new.url


def copy(primary: str, standby_dir: Path) -> None:
    """Make the data directory of a standby."""
    account = ServiceAccount()
    standby_dir.mkdir()
    account.own(standby_dir)
    backup = installed_program().reachable(account, standby_dir.parent).bin_dir / "pg_basebackup"
    target = standby_dir / "postgres"
    flags = ["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
    subprocess.run(
        [backup, "--dbname", primary, "--pgdata", target, *flags],
        check=True,
        capture_output=True,
        cwd=standby_dir,
        **account.popen_arguments,
    )
