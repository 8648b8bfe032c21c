"""Reads from a hot standby: as fresh as the primary's, and none fails because of the standby."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import grpc
import psutil
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.roles import POLICY, Role
from palaver_server.bootstrap.database import opened
from palaver_server.database import standby
from palaver_server.database.connection import Connection
from palaver_server.database.migrate import migrate
from palaver_server.database.pool import Pool
from palaver_server.database.standby import StandbyReader
from palaver_server.database.statement import Statement
from palaver_server.fair_slots import Consumer
from tests.conftest import Run, StartServer
from tests.support.client import Client
from tests.support.concurrency import begin
from tests.support.processes import scratch_directory
from tests.support.reads import READS, Read, fill
from tests.support.scrapes import metrics_url, scraped
from tests.support.standby import Pair, promoted_copy, replicated
from tests.support.watching import NOT_SERVING, SERVING, eventually, health_of

PRIMARY, STANDBY = "primary", "standby"

PoolT = TypeVar("PoolT", bound=Pool)


@pytest.fixture(scope="module")
def pair(run: Run) -> Iterator[Pair]:
    """A migrated primary and its standby."""
    with scratch_directory() as directory, replicated(directory) as pair:
        run(migrate(pair.primary))
        yield pair


class Reads:
    """The reads of a server so far, by the PostgreSQL server that ran them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._before = {PRIMARY: 0, STANDBY: 0}
        self.new()

    def new(self) -> dict[str, int]:
        """Return the numbers since the last call."""
        scrape = scraped(self._url)
        counts = {
            name: int(scrape.value("palaver_reads_total", server=name)) for name in self._before
        }
        new = {name: count - self._before[name] for name, count in counts.items()}
        self._before = counts
        return new

    @property
    def is_standby_used(self) -> bool:
        """Whether the standby answered the last check."""
        return scraped(self._url).value("palaver_standby_used") == 1


class StartReading:
    """Starts servers that read from the standby of a pair."""

    def __init__(
        self, start_server: StartServer, caplog: pytest.LogCaptureFixture, pair: Pair
    ) -> None:
        self._start = start_server
        self._caplog = caplog
        self._pair = pair

    def __call__(self, **settings: Any) -> tuple[Client, Reads]:
        defaults = {
            "database_url": self._pair.primary,
            "read_database_url": self._pair.standby,
            "health_interval_seconds": 0.2,
            "metrics_listen": "127.0.0.1:0",
        }
        with self._caplog.at_level("INFO"):
            client = self._start(**{**defaults, **settings})
        return client, Reads(metrics_url(self._caplog.text))


@pytest.fixture
def start_reading(
    start_server: StartServer, caplog: pytest.LogCaptureFixture, pair: Pair
) -> StartReading:
    """A function that starts servers that read from the standby."""
    return StartReading(start_server, caplog, pair)


def test_read_calls_are_all_of_the_policy() -> None:
    reading = {name.rpartition("/")[2] for name, role in POLICY.items() if role is Role.READER}

    assert set(READS) == reading


def test_reads_of_fresh_standby_run_there(
    start_reading: StartReading, pair: Pair, session_id: str, subtests: pytest.Subtests
) -> None:
    client, reads = start_reading()
    fill(client, session_id)

    for name, read in READS.items():

        def runs_on_standby_only(read: Read = read) -> bool:
            pair.catch_up()
            reads.new()
            assert read(client, session_id)
            new = reads.new()
            return new[PRIMARY] == 0 and new[STANDBY] > 0

        with subtests.test(name):
            eventually(runs_on_standby_only, "the standby is used")


def test_reads_while_replay_is_paused_see_every_acknowledged_write(
    start_reading: StartReading, pair: Pair, session_id: str, subtests: pytest.Subtests
) -> None:
    client, reads = start_reading()

    with pair.paused_replay():
        fill(client, session_id)
        reads.new()

        for name, read in READS.items():
            with subtests.test(name):
                assert read(client, session_id)
                assert reads.new()[STANDBY] == 0


def test_read_after_replay_catches_up_runs_on_standby_again(
    start_reading: StartReading, pair: Pair, session_id: str
) -> None:
    client, reads = start_reading()
    with pair.paused_replay():
        client.add(session_id, "one")
    pair.catch_up()
    reads.new()

    client.contents(session_id)

    eventually(lambda: client.contents(session_id) and reads.new()[STANDBY], "the standby is used")


# A call of each RPC that tells the newest sequence of a session.
NEWEST: list[Callable[[Client, str], int]] = [
    lambda client, name: client.get_session(name).last_sequence,
    lambda client, name: client.get_memory(name, last_n=1).messages[-1].sequence,
    lambda client, name: client.list_messages(name, newest_first=True).messages[0].sequence,
    lambda client, name: client.stream_messages(name)[-1].messages[-1].sequence,
]


@pytest.mark.parametrize("synchronous_commit", ["on", "off"])
def test_reads_of_racing_callers_see_every_acknowledged_write(
    synchronous_commit: str, start_reading: StartReading, pair: Pair
) -> None:
    options = f"-csynchronous_commit={synchronous_commit}"
    url = make_conninfo(pair.primary, options=options)
    writer, _ = start_reading(database_url=url)
    reader, reads = start_reading(database_url=url)
    names = [f"race-{synchronous_commit}-{number}" for number in range(4)]
    acknowledged = dict.fromkeys(names, 0)
    writing = True

    def write(name: str) -> None:
        for _ in range(100):
            acknowledged[name] = writer.add(name, "x").messages[-1].sequence

    def read(seed: int) -> None:
        chance = random.Random(seed)
        while writing:
            name, newest = chance.choice(names), chance.choice(NEWEST)
            if before := acknowledged[name]:
                assert newest(reader, name) >= before

    with ThreadPoolExecutor() as threads:
        readers = [threads.submit(read, seed) for seed in range(4)]
        for written in [threads.submit(write, name) for name in names]:
            written.result()
        writing = False
        for done in readers:
            done.result()

    if synchronous_commit == "on":
        assert reads.new()[STANDBY], "some reads ran on the standby"


def test_reads_with_allowed_staleness_run_on_a_standby_that_lags(
    start_reading: StartReading, pair: Pair, session_id: str
) -> None:
    client, reads = start_reading(read_max_staleness_seconds=600)
    client.add(session_id, "one")
    pair.catch_up()

    with pair.paused_replay():
        client.add(session_id, "two")
        reads.new()

        assert client.contents(session_id) == ["one"]
        assert reads.new() == {PRIMARY: 0, STANDBY: 1}


def test_reads_with_allowed_staleness_see_writes_once_they_are_older(
    start_reading: StartReading, pair: Pair, session_id: str
) -> None:
    client, reads = start_reading(read_max_staleness_seconds=0.4)

    with pair.paused_replay():
        client.add(session_id, "one")

        eventually(lambda: _sees(client, session_id), "the read sees it")
        assert reads.new()[PRIMARY]


def _sees(client: Client, session_id: str) -> bool:
    try:
        return client.contents(session_id) == ["one"]
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        return False


def test_reads_with_allowed_staleness_go_on_while_the_primary_is_away(
    start_reading: StartReading, pair: Pair, session_id: str
) -> None:
    client, reads = start_reading(read_max_staleness_seconds=600)
    client.add(session_id, "hello")
    pair.catch_up()
    frozen = pair.primary_processes
    for process in frozen:
        process.suspend()
    try:
        eventually(lambda: health_of(client) == NOT_SERVING, "the outage is noticed")
        reads.new()

        assert client.contents(session_id) == ["hello"]
        assert reads.new() == {PRIMARY: 0, STANDBY: 1}
    finally:
        for process in frozen:
            process.resume()


def test_standby_that_ends_is_replaced_by_the_primary_until_it_is_back(
    start_reading: StartReading, run: Run, session_id: str
) -> None:
    with scratch_directory() as directory, replicated(directory) as pair:
        run(migrate(pair.primary))
        client, reads = start_reading(
            database_url=pair.primary, read_database_url=pair.standby, pool_max_size=2
        )
        client.add(session_id, "hello")
        pair.catch_up()
        with calling(lambda: client.contents(session_id)) as failed:
            eventually(lambda: reads.new()[STANDBY], "the standby is used")
            for process in pair.standby_processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            eventually(lambda: reads.new()[PRIMARY], "the primary is used")
            assert health_of(client) == SERVING
            eventually(lambda: reads.new()[STANDBY], "the standby is used again")

        assert failed == []


def test_standby_that_freezes_is_replaced_by_the_primary_until_it_is_back(
    start_reading: StartReading, pair: Pair, session_id: str
) -> None:
    client, reads = start_reading()
    client.add(session_id, "hello")
    pair.catch_up()

    with calling(lambda: client.contents(session_id)) as failed:
        eventually(lambda: reads.new()[STANDBY], "the standby is used")
        frozen = pair.standby_processes
        for process in frozen:
            process.suspend()
        try:
            eventually(lambda: reads.new()[PRIMARY], "the primary is used")
            eventually(lambda: not reads.is_standby_used, "the standby counts as unreachable")
            assert health_of(client) == SERVING
        finally:
            for process in frozen:
                process.resume()
        eventually(lambda: reads.new()[STANDBY], "the standby is used again")

    assert failed == []


@contextmanager
def calling(call: Callable[[], object]) -> Iterator[list[grpc.RpcError]]:
    """Make calls one after the other during the block; yield the list of those that failed."""
    failed: list[grpc.RpcError] = []
    ended = threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            try:
                call()
            except grpc.RpcError as error:
                failed.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield failed
    finally:
        ended.set()
        thread.join()


def test_start_without_standby_reads_from_the_primary(
    start_reading: StartReading, session_id: str
) -> None:
    client, reads = start_reading(read_database_url="postgresql://palaver@127.0.0.1:1/palaver")
    client.add(session_id, "hello")

    assert client.contents(session_id) == ["hello"]
    assert reads.new() == {PRIMARY: 1, STANDBY: 0}


@pytest.mark.parametrize("of", ["the primary", "another schema", "another system"])
def test_read_url_of_something_else_is_not_read(
    of: str, start_reading: StartReading, pair: Pair, postgres: str, session_id: str
) -> None:
    url = {
        "the primary": pair.primary,
        "another schema": make_conninfo(pair.standby, options="-csearch_path=pg_catalog"),
        "another system": postgres,
    }[of]
    client, reads = start_reading(read_database_url=url)
    client.add(session_id, "hello")

    assert client.contents(session_id) == ["hello"]
    assert reads.new() == {PRIMARY: 1, STANDBY: 0}
    assert not reads.is_standby_used


@pytest.mark.parametrize("function", ["pg_control_system", "pg_control_recovery"])
def test_user_without_rights_to_compare_positions_reads_from_the_primary(
    function: str,
    start_reading: StartReading,
    pair: Pair,
    session_id: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with psycopg.connect(pair.primary, autocommit=True) as admin:
        admin.execute("CREATE ROLE plain LOGIN")
        admin.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO plain"
        )
        admin.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC".encode())
        try:
            pair.catch_up()
            urls = [make_conninfo(url, user="plain") for url in (pair.primary, pair.standby)]
            client, reads = start_reading(database_url=urls[0], read_database_url=urls[1])
            client.add(session_id, "hello")

            assert client.contents(session_id) == ["hello"]
            assert reads.new() == {PRIMARY: 1, STANDBY: 0}
            assert f"permission denied for function {function}" in caplog.text
        finally:
            admin.execute(f"GRANT EXECUTE ON FUNCTION {function} TO PUBLIC".encode())
            admin.execute("DROP OWNED BY plain")
            admin.execute("DROP ROLE plain")


def test_standby_that_was_promoted_is_not_read(
    start_reading: StartReading, run: Run, session_id: str
) -> None:
    with scratch_directory() as directory, replicated(directory) as pair:
        run(migrate(pair.primary))
        client, reads = start_reading(database_url=pair.primary, read_database_url=pair.standby)
        client.add(session_id, "hello")
        pair.catch_up()
        eventually(lambda: client.contents(session_id) and reads.new()[STANDBY], "it is used")

        with psycopg.connect(pair.standby, autocommit=True) as promoted:
            promoted.execute("SELECT pg_promote()")
            promoted.execute("UPDATE messages SET content = 'astray'")

        assert client.contents(session_id) == ["hello"]
        eventually(lambda: not reads.is_standby_used, "it is noticed")


def test_standby_of_a_former_primary_is_not_read(
    start_reading: StartReading, run: Run, session_id: str
) -> None:
    with scratch_directory() as directory, replicated(directory) as pair:
        run(migrate(pair.primary))
        with promoted_copy(pair.primary, directory / "new") as new:
            with psycopg.connect(pair.primary, autocommit=True) as former:
                former.execute("INSERT INTO users (user_id) VALUES ('astray')")
                # Until its log, and so the standby's, is longer than that of the new primary.
                former.execute("SELECT pg_logical_emit_message(true, '', repeat('x', 20000000))")
            pair.catch_up()
            client, reads = start_reading(database_url=new, read_database_url=pair.standby)
            client.add_user(session_id)

            assert [user.user_id for user in client.list_users().users] == [session_id]
            assert reads.new()[STANDBY] == 0
            assert not reads.is_standby_used


_RECOVERS = Statement("test.recovers", "SELECT pg_is_in_recovery()")
_COUNT = Statement("test.count", "SELECT count(*) FROM users")
_SLEEP = Statement("test.sleep", "SELECT pg_sleep(60)")


class HeldPool(Pool):
    """A pool whose users wait after their statements, while `released` is clear."""

    def __init__(self, url: str) -> None:
        super().__init__(url, min_size=1, max_size=1, timeout=5)
        self.asked = asyncio.Event()
        self.released = asyncio.Event()
        self.released.set()

    @asynccontextmanager
    async def connection(
        self, principal: Consumer | None = None, **options: Any
    ) -> AsyncIterator[Connection]:
        async with super().connection(principal, **options) as connection:
            yield connection
            self.asked.set()
            await self.released.wait()


def test_read_after_a_look_sees_writes_of_the_same_time(
    run: Run, pair: Pair, session_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "monotonic", lambda: 1.0)

    async def write_between_reads() -> tuple[int, int]:
        looks = Pool(pair.primary, min_size=1, max_size=1, timeout=5)
        async with _reader(pair, looks=looks) as (reader, _):
            first = await reader.read(_count_users)
            await asyncio.to_thread(_add_user, pair.primary, session_id)
            return first, await reader.read(_count_users)

    pair.catch_up()
    with pair.paused_replay():
        first, second = run(write_between_reads())

    assert second == first + 1


def test_read_during_a_look_sees_writes_acknowledged_after_the_look_began(
    run: Run, pair: Pair, session_id: str
) -> None:
    async def race() -> tuple[int, int]:
        async with _reader(pair, looks=HeldPool(pair.primary)) as (reader, looks):
            looks.asked.clear()
            looks.released.clear()
            first = asyncio.create_task(reader.read(_count_users))
            await looks.asked.wait()
            await asyncio.to_thread(_add_user, pair.primary, session_id)
            second = asyncio.create_task(reader.read(_count_users))
            await asyncio.sleep(0)  # it waits for a look
            looks.released.set()
            return await first, await second

    pair.catch_up()
    with pair.paused_replay():
        first, second = run(race())

    assert second == first + 1


async def _count_users(connection: Connection) -> int:
    (users,) = await connection.fetch_one(_COUNT) or ()
    return int(users)


def _add_user(url: str, user_id: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO users (user_id) VALUES (%s)", [user_id])


@pytest.mark.parametrize("snapshot", [None, ["SET LOCAL jit = off"]])
def test_read_that_conflicts_with_the_replay_runs_again_on_the_primary(
    snapshot: list[str] | None, run: Run, pair: Pair
) -> None:
    begun = threading.Event()

    async def work(connection: Connection) -> str:
        (is_standby,) = await connection.fetch_one(_RECOVERS) or ()
        if not is_standby:
            return PRIMARY
        async with connection.transaction():  # holds its lock on the table
            await connection.fetch(_COUNT)
            begun.set()
            await connection.fetch(_SLEEP)
        return STANDBY

    async def read() -> tuple[str, Counter[str]]:
        looks = Pool(pair.primary, min_size=1, max_size=1, timeout=5)
        async with _reader(pair, looks=looks) as (reader, _):
            return await reader.read(work, snapshot=snapshot), reader.stats.reads

    pair.catch_up()
    reading = begin(lambda: run(read()))
    assert begun.wait(30)
    with psycopg.connect(pair.primary) as primary:
        primary.execute("LOCK TABLE users IN ACCESS EXCLUSIVE MODE")

    assert reading.result(30) == (PRIMARY, {PRIMARY: 1, STANDBY: 0})


@asynccontextmanager
async def _reader(pair: Pair, *, looks: PoolT) -> AsyncIterator[tuple[StandbyReader, PoolT]]:
    """Yield a reader that has found its standby, and its pool for looks."""
    primary, standby, checks = (
        Pool(url, min_size=1, max_size=2, timeout=5)
        for url in (pair.primary, pair.standby, pair.standby)
    )
    async with opened(primary), opened(standby), opened(checks), opened(looks):
        reader = StandbyReader(primary=primary, standby=standby, looks=looks, checks=checks)
        await reader.check()
        yield reader, looks
