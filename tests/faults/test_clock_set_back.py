"""A PostgreSQL whose clock is set back, by libfaketime: times of rows do not go back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from palaver_server.database.migrate import migrate
from palaver_server.process import embedded_postgres
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.conftest import Run
from tests.support.all_writes import WRITES, assert_no_time_went_back, fill, times
from tests.support.client import Client, connected
from tests.support.concurrency import Connection
from tests.support.locks import take_purge_lease
from tests.support.processes import scratch_directory
from tests.support.rival import clock as time_of
from tests.support.rows import count_sessions_and_messages
from tests.support.servers import running_server

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class Clock:
    """The clock of a PostgreSQL, as an offset to the real one."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set("+0")
        file.chmod(0o644)  # PostgreSQL may run as another user

    def set(self, offset: str) -> None:
        """Set the clock, to an offset such as `-1h`."""
        self._file.write_text(offset)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    """The clock of each PostgreSQL that the test starts."""
    if not _LIBRARIES:
        pytest.skip("needs libfaketime")
    with scratch_directory() as directory:
        file = directory / "clock"
        variables = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        for name, value in variables.items():
            monkeypatch.setitem(embedded_postgres._ENVIRONMENT, name, value)
        yield Clock(file)


@pytest.fixture
def database_url(clock: Clock, run: Run) -> Iterator[str]:
    """The URL of a migrated database of that PostgreSQL."""
    with (
        scratch_directory() as directory,
        EmbeddedPostgres(directory, {"fsync": "off"}) as postgres,
    ):
        run(migrate(postgres.url))
        yield postgres.url


@pytest.fixture
def palaver(database_url: str, run: Run) -> Iterator[Client]:
    """A client of a server on that database."""
    with running_server(run, database_url) as address, connected(address) as client:
        yield client


def test_clock_set_back_moves_no_updated_at_back(
    palaver: Client, database: Connection, clock: Clock
) -> None:
    for write in WRITES.values():
        database.execute("TRUNCATE sessions, messages, users, embedding_queue")
        clock.set("+1h")
        fill(palaver)
        before = times(database)
        clock.set("+0")

        write(palaver)

        assert_no_time_went_back(before, times(database))
        assert max(updated_at for _, updated_at in before.values()) > time_of(database)


def test_clock_set_back_purges_rows_deleted_before_when_their_time_comes(
    palaver: Client, database: Connection, clock: Clock
) -> None:
    clock.set("+1h")
    palaver.add("s", "one", "two")
    palaver.delete_messages("s", last_n=1)
    palaver.delete_session("s")
    take_purge_lease(database)  # and end without giving it back
    clock.set("+0")
    palaver.purge()
    assert count_sessions_and_messages(database) == (1, 2)

    clock.set("+2h")
    palaver.purge()

    assert count_sessions_and_messages(database) == (0, 0)
