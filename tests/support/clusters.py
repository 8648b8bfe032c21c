"""A data directory that tests use in turn: to make one takes longer than most of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.processes import end_processes_in

# Tests kill processes, not machines.
FAST = {"fsync": "off"}


class Cluster:
    """A data directory with a PostgreSQL cluster, which has one note in it: `first`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        with EmbeddedPostgres(home, FAST) as postgres:
            write(postgres, "first")

    @contextmanager
    def lent(self, place: Path) -> Iterator[Path]:
        """Moves it to a place for the block, and ends afterwards what runs in it."""
        self._home.rename(place)
        try:
            yield place
        finally:
            end_processes_in(place)
            # A test that failed may hold it still.
            (place / "lock").unlink(missing_ok=True)
            place.rename(self._home)


def write(postgres: EmbeddedPostgres, note: str) -> None:
    """Keeps a note."""
    with psycopg.connect(postgres.url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        connection.execute("INSERT INTO notes VALUES (%s)", [note])


def read(postgres: EmbeddedPostgres) -> list[str]:
    """Gives all notes."""
    with psycopg.connect(postgres.url) as connection:
        return [note for (note,) in connection.execute("SELECT note FROM notes")]


def setting(postgres: EmbeddedPostgres, name: str) -> str:
    """Gives a setting of the server."""
    with psycopg.connect(postgres.url) as connection:
        (value,) = connection.execute("SELECT current_setting(%s)", [name]).fetchone() or ("",)
        return str(value)
