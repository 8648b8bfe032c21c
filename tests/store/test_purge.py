"""PurgeStore: the turn, and the rows of a batch."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement
from palaver_server.purge.purge_store import PurgeStore, PurgeTurn, TurnLost
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.sessions import SessionStore
from tests.conftest import Run
from tests.support.client import wait_until
from tests.support.concurrency import Connection
from tests.support.locks import has_purge_lease, take_purge_lease


async def has_turn(pool: Pool) -> bool:
    async with PurgeStore(pool).turn() as turn:
        return turn is not None


def test_purge_turn_is_held_by_one_purger(pool: Pool, run: Run) -> None:
    async def take_it_twice() -> tuple[bool, bool]:
        async with PurgeStore(pool).turn():
            during = await has_turn(pool)
        return during, await has_turn(pool)

    assert run(take_it_twice()) == (False, True)


def test_purge_turn_ends_when_cancelled_while_taken(
    pool: Pool, run: Run, database: Connection
) -> None:
    # The answer is slow: whether the lease is taken is unknown to the client.
    slow = Statement("slow", PurgeStore.TAKE_LEASE.sql + " RETURNING pg_sleep(600)")

    async def purge_and_be_cancelled() -> None:
        store = PurgeStore(pool)
        setattr(store, "TAKE_LEASE", slow)  # noqa: B010 - mypy takes it for a constant
        purger = asyncio.create_task(take_turn(store))
        await asyncio.to_thread(wait_until, lambda: sleeps(database))
        purger.cancel()
        with pytest.raises(asyncio.CancelledError):
            await purger

    run(purge_and_be_cancelled())

    assert run(has_turn(pool))


def test_purge_turn_lost_to_another_purger_changes_nothing(
    pool: Pool, run: Run, database: Connection
) -> None:
    async def purge() -> None:
        async with PurgeStore(pool).turn() as turn:
            assert turn
            take_purge_lease(database)
            await turn.purge_messages(datetime.now(UTC), limit=10)

    with pytest.raises(TurnLost):
        run(purge())
    assert has_purge_lease(database), "the lease of the other was ended"


async def take_turn(store: PurgeStore) -> None:
    async with store.turn():
        pass


def sleeps(database: Connection) -> bool:
    sleepers = database.execute(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event = 'PgSleep' AND datname = current_database()"
    )
    return sleepers.fetchone() == (1,)


class Interrupted:
    """A connection that runs a callback before a statement."""

    def __init__(self, connection: Any, statement: Statement, happens: Any) -> None:
        self._connection, self._statement, self._happens = connection, statement, happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    async def run(self, statement: Statement, *parameters: Any) -> Any:
        if statement is self._statement:
            self._happens()
        return await self._connection.run(statement, *parameters)


class InterruptedPool:
    """A pool whose connections run a callback before a statement."""

    def __init__(self, pool: Pool, statement: Statement, happens: Any) -> None:
        self._pool, self._statement, self._happens = pool, statement, happens

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Interrupted]:
        async with self._pool.connection() as connection:
            yield Interrupted(connection, self._statement, self._happens)


def test_purge_keeps_chosen_session_that_has_messages_again(
    pool: Pool, run: Run, database: Connection
) -> None:
    async def delete_an_empty_session() -> None:
        await SessionStore(pool).add_session(EVERYTHING, "s", user_id=None, metadata="{}")
        await SessionStore(pool).delete_session(EVERYTHING, "s")

    def add_a_message() -> None:
        database.execute(
            "INSERT INTO messages (session_id, sequence, message_id, role, content, deleted_at)"
            " VALUES ('s', 1, 'm', 'user', '', now())"
        )

    async def purge() -> int:
        interrupted: Any = InterruptedPool(pool, PurgeTurn.PURGE_SESSIONS, add_a_message)
        async with PurgeStore(interrupted).turn() as turn:
            assert turn
            return await turn.purge_sessions(datetime.now(UTC), limit=10)

    run(delete_an_empty_session())

    assert run(purge()) == 0
    assert database.execute("SELECT session_id FROM sessions").fetchall() == [("s",)]


def test_purge_batch_takes_oldest_rows_up_to_its_limit(
    pool: Pool, run: Run, database: Connection
) -> None:
    messages = [NewMessage(f"m{i}", "user", "", 0, "{}", None) for i in range(10)]

    async def fill() -> None:
        await MemoryStore(pool).add_memory(EVERYTHING, "s", messages, user_id=None)

    run(fill())
    database.execute(
        "UPDATE messages SET deleted_at = now() - sequence * interval '1 hour' WHERE sequence > 2"
    )

    async def purge() -> tuple[dict[str, int], list[int]]:
        store = PurgeStore(pool)
        before = await store.cutoff(timedelta(hours=4, minutes=30))
        async with store.turn() as turn:
            assert turn
            counts = await turn.measure(before)
            return counts, [await turn.purge_messages(before, limit=4) for _ in range(3)]

    assert run(purge()) == ({"messages": 6, "sessions": 0, "users": 0}, [4, 2, 0])
    left = database.execute("SELECT sequence FROM messages ORDER BY sequence").fetchall()
    assert [sequence for (sequence,) in left] == [1, 2, 3, 4]
