"""The pool: busy, closed, or without a reachable database."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack

import psycopg
import pytest

from palaver_server.database.pool import Pool, PreparedStatements
from palaver_server.errors import DatabaseUnavailable, NoConnectionInTime
from palaver_server.fair_slots import Consumer
from tests.conftest import Run
from tests.support.concurrency import Connection

A_MOMENT = 0.2

FORBID = "ALTER DATABASE {} ALLOW_CONNECTIONS false"


@pytest.fixture
def small_pool(database_url: str, run: Run) -> Iterator[Pool]:
    """A pool of two connections, with a short timeout."""
    pool = Pool(database_url, min_size=1, max_size=2, timeout=A_MOMENT)
    run(pool.open())
    yield pool
    run(pool.close())


async def use(pool: Pool, principal: Consumer | None = None) -> None:
    async with pool.connection(principal) as connection:
        await connection.execute("SELECT 1")


async def outcome(pool: Pool) -> type[BaseException] | None:
    try:
        await use(pool)
    except (DatabaseUnavailable, NoConnectionInTime) as error:
        return type(error)
    return None


def test_pool_without_connection_in_time_is_exhausted(small_pool: Pool, run: Run) -> None:
    async def ask_while_all_are_in_use() -> None:
        async with small_pool.connection(), small_pool.connection():
            await use(small_pool)

    with pytest.raises(NoConnectionInTime):
        run(ask_while_all_are_in_use())
    run(use(small_pool))


SESSION_SETTINGS = """
    SELECT name FROM pg_settings
    WHERE source = 'session'
"""


def test_pool_sets_nothing_for_the_database_session(small_pool: Pool, run: Run) -> None:
    async def use_it() -> list[tuple[str]]:
        async with small_pool.connection(snapshot=["SET LOCAL jit = off"]) as connection:
            await connection.execute("SELECT 1")
        async with small_pool.connection() as connection, connection.in_transaction():
            await connection.execute("SELECT 1")
        async with small_pool.connection() as connection:
            return await (await connection.execute(SESSION_SETTINGS)).fetchall()

    assert run(use_it()) == []


@pytest.mark.parametrize("prepared_statements", PreparedStatements)
def test_pool_connected_directly_prepares_statements_unless_off(
    database_url: str, run: Run, prepared_statements: PreparedStatements
) -> None:
    pool = Pool(
        database_url, min_size=1, max_size=1, timeout=5, prepared_statements=prepared_statements
    )

    async def use_it() -> bool:
        await pool.open()
        async with pool.connection() as connection:
            return connection.prepares

    assert run(use_it()) is (prepared_statements is not PreparedStatements.OFF)
    run(pool.close())


def test_pool_waiter_gets_next_free_connection(database_url: str, run: Run) -> None:
    pool = Pool(database_url, min_size=1, max_size=1, timeout=20)

    async def use_by_turns() -> None:
        await pool.open()
        await asyncio.gather(*(use(pool) for _ in range(50)))
        await pool.close()

    run(use_by_turns())


def test_pool_connections_of_a_principal_are_limited_and_its_waits_counted(
    small_pool: Pool, run: Run
) -> None:
    async def use_more_than_a_share() -> int:
        async with small_pool.connection(Consumer("greedy")):
            waiting = asyncio.create_task(use(small_pool, Consumer("greedy")))
            await use(small_pool, Consumer("modest"))
            count = small_pool.stats()["requests_waiting"]
            with pytest.raises(NoConnectionInTime):
                await waiting
        return count

    assert run(use_more_than_a_share()) == 1
    stats = small_pool.stats()
    assert (stats["requests_waiting"], stats["requests_errors"]) == (0, 1)
    assert stats["requests_wait_ms"] >= 1000 * A_MOMENT


def test_pool_busy_is_not_reported_as_unreachable(database_url: str, run: Run) -> None:
    pool = Pool(database_url, min_size=1, max_size=1, timeout=0.01)

    async def crowd() -> set[type[BaseException] | None]:
        await pool.open()
        await use_when_it_is_there(pool)
        outcomes = set()
        for _ in range(20):
            outcomes |= set(await asyncio.gather(*(outcome(pool) for _ in range(100))))
        await pool.close()
        return outcomes

    assert run(crowd()) <= {None, NoConnectionInTime}


async def use_when_it_is_there(pool: Pool) -> None:
    """Use a pool that connects in the background, without waiting for it."""
    while await outcome(pool):
        pass


def test_pool_of_unreachable_database_is_not_reported_as_busy(run: Run) -> None:
    pool = Pool("host=/nonexistent dbname=palaver", min_size=1, max_size=2, timeout=A_MOMENT)

    async def ask() -> None:
        await pool.open()
        try:
            await use(pool)
        finally:
            await pool.close()

    with pytest.raises(DatabaseUnavailable):
        run(ask())


@pytest.mark.slow
def test_pool_in_use_of_unreachable_database_is_not_reported_as_busy(
    run: Run, database_url: str, postgres: str
) -> None:
    pool = Pool(database_url, min_size=2, max_size=2, timeout=2)

    async def use_while_no_other_can_be_made() -> None:
        await pool.open()
        async with pool.connection() as connection:
            async with pool.connection() as other:
                database, cut = connection.info.dbname, other.info.backend_pid
            with psycopg.connect(postgres, autocommit=True) as administrator:
                administrator.execute(FORBID.format(database).encode())
                administrator.execute("SELECT pg_terminate_backend(%s, 5000)", [cut])
            assert await outcome(pool) is DatabaseUnavailable  # from the connection that was cut
            assert (
                await outcome(pool) is DatabaseUnavailable
            )  # from a connection that cannot be made
        await pool.close()

    run(use_while_no_other_can_be_made())


def test_pool_that_is_closed_is_not_reported_as_busy(small_pool: Pool, run: Run) -> None:
    run(small_pool.close())

    with pytest.raises(DatabaseUnavailable):
        run(use(small_pool))


def test_pool_connection_is_returned_after_any_outcome(
    small_pool: Pool, run: Run, database: Connection
) -> None:
    async def fail() -> None:
        async with small_pool.connection() as connection:
            await connection.execute("BEGIN")
            raise KeyError

    async def wait_for_ever() -> None:
        async with small_pool.connection() as connection:
            await connection.execute("SELECT pg_sleep(600)")

    async def misuse() -> None:
        for _ in range(5):
            with pytest.raises(KeyError):
                await fail()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait_for_ever(), A_MOMENT / 4)
        async with AsyncExitStack() as stack:
            for _ in range(2):
                connection = await stack.enter_async_context(small_pool.connection())
                await connection.execute("SELECT 1")

    run(misuse())
    asleep = database.execute("SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)'")
    assert not [row for row in asleep if row]


def test_pool_rollback_on_lost_connection_fails(small_pool: Pool, run: Run) -> None:
    async def roll_back_what_is_lost() -> None:
        async with small_pool.connection() as connection, connection.in_transaction():
            await connection.execute("SELECT 1")
            await connection.close()
            raise psycopg.Rollback

    with pytest.raises(DatabaseUnavailable):
        run(roll_back_what_is_lost())
    run(use(small_pool))


def test_pool_return_cancelled_half_way_loses_no_connection(database_url: str, run: Run) -> None:
    async def give_back_and_cancel() -> None:
        pool = Pool(database_url, min_size=1, max_size=1, timeout=2)
        await pool.open()
        taken, done = asyncio.Event(), asyncio.Event()

        async def use_until_done() -> None:
            async with pool.connection():
                taken.set()
                await done.wait()

        try:
            first = asyncio.create_task(use_until_done())
            await taken.wait()
            following = asyncio.create_task(use(pool))
            done.set()
            await asyncio.sleep(0)  # one starts to wait, the other to return its connection
            first.cancel()
            await following
        finally:
            await pool.close()

    run(give_back_and_cancel())
