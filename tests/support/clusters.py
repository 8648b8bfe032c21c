"""A data directory that tests use in turn: creating one takes longer than most tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.processes import end_processes_in

# Tests kill processes, not machines.
FAST = {"fsync": "off"}


class Cluster:
    """A data directory with a PostgreSQL cluster that holds one note: `first`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        with EmbeddedPostgres(home, FAST) as postgres:
            write(postgres, "first")

    @contextmanager
    def lent(self, place: Path) -> Iterator[Path]:
        """Move it to a path for the block, and end all processes in it afterwards."""
        self._home.rename(place)
        try:
            yield place
        finally:
            end_processes_in(place)
            # A test that failed may have left its lock.
            (place / "lock").unlink(missing_ok=True)
            place.rename(self._home)


def write(postgres: EmbeddedPostgres, note: str) -> None:
    """Store a note."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [note])


def read(postgres: EmbeddedPostgres) -> list[str]:
    """Return all notes."""
    with psycopg.connect(postgres.url) as connection:
        return [note for (note,) in connection.execute("SELECT note FROM notes")]


def setting(postgres: EmbeddedPostgres, name: str) -> str:
    """Return a setting of the server."""
    with psycopg.connect(postgres.url) as connection:
        (value,) = connection.execute("SELECT current_setting(%s)", [name]).fetchone() or ("",)
        return str(value)
