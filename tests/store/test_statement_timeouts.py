"""Work that may last long: bounded by the call's deadline, not by the statement timeout."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.pool import Pool
from palaver_server.errors import DeadlineExceeded
from palaver_server.purge.purge_store import PurgeStore
from palaver_server.search.keyword_index import KeywordIndex
from palaver_server.store.memory import AddOptions, MemoryStore, NewMessage
from palaver_server.store.messages import MessageRow, MessageStore, Selection
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from tests.conftest import Run
from tests.support.concurrency import Connection, wait_until_blocked
from tests.support.rows import accept


def add(pool: Pool) -> Coroutine[Any, Any, Any]:
    """Add a message to the session `s` of the user `u`, in a transaction."""
    message = NewMessage("m", "user", "hello", 0, "{}", None)
    options = AddOptions(with_session=True)
    return MemoryStore(pool).add_memory(EVERYTHING, "s", [message], user_id="u", options=options)


def changed(message: MessageRow) -> MessageRow:
    return message._replace(content="changed")


async def purge(pool: Pool, kind: str) -> int:
    async with PurgeStore(pool).turn() as turn:
        assert turn
        before = datetime.now(UTC)
        return await turn.batches[kind](before, limit=10)


async def measure_purge(pool: Pool) -> dict[str, int]:
    async with PurgeStore(pool).turn() as turn:
        assert turn
        return await turn.measure(datetime.now(UTC))


def index(pool: Pool) -> KeywordIndex:
    return KeywordIndex(pool, "english")


# What to do, and the table that another transaction locks meanwhile.
WORK: dict[str, tuple[Callable[[Pool], Coroutine[Any, Any, Any]], str]] = {
    "AddMemory": (add, "messages"),
    "AddSession": (
        lambda pool: SessionStore(pool).add_session(
            EVERYTHING, "new", user_id="u", metadata="{}"
        ),
        "users",
    ),
    "UpdateSession": (
        lambda pool: SessionStore(pool).update_session(EVERYTHING, "s", lambda row: row),
        "sessions",
    ),
    "UpdateUser": (
        lambda pool: UserStore(pool).update_user(EVERYTHING, "u", lambda row: row), "users"
    ),
    "UpdateMessage": (
        lambda pool: MessageStore(pool).update_message(EVERYTHING, "s", "m", changed),
        "messages",
    ),
    "DeleteMessages": (
        lambda pool: MessageStore(pool).delete_messages(
            EVERYTHING, "s", Selection(last_n=1), accept
        ),
        "messages",
    ),
    "DeleteSession": (lambda pool: SessionStore(pool).delete_session(EVERYTHING, "s"), "sessions"),
    "DeleteSession, messages": (
        lambda pool: SessionStore(pool).delete_session(EVERYTHING, "s"), "messages"
    ),
    "DeleteUser": (lambda pool: UserStore(pool).delete_user(EVERYTHING, "u"), "sessions"),
    "DeleteUser, messages": (lambda pool: UserStore(pool).delete_user(EVERYTHING, "u"), "messages"),
    "the count of a purge": (measure_purge, "messages"),
    "a purge of messages": (lambda pool: purge(pool, "messages"), "messages"),
    "a purge of sessions": (lambda pool: purge(pool, "sessions"), "sessions"),
    "a purge of users": (lambda pool: purge(pool, "users"), "users"),
    "the count of a reindex": (lambda pool: index(pool).count_messages(), "messages"),
    "a page of a reindex": (lambda pool: index(pool).reindex(limit=10), "messages"),
}  # fmt: skip


@asynccontextmanager
async def impatient_pool(database_url: str) -> AsyncIterator[Pool]:
    """A pool whose statements have a short timeout."""
    pool = Pool(database_url, min_size=1, max_size=2, timeout=10, statement_timeout=0.3)
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def outlast_the_timeout(pool: Pool) -> None:
    """Wait for a statement that has the timeout."""
    with pytest.raises(DeadlineExceeded):
        async with pool.connection(EVERYTHING.principal) as connection:
            await connection.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize("work", WORK)
def test_statement_timeout_does_not_cut_long_work(
    work: str, database_url: str, run: Run, database: Connection
) -> None:
    start, table = WORK[work]

    async def wait_for_the_lock() -> Any:
        async with impatient_pool(database_url) as pool:
            await add(pool)
            with psycopg.connect(database_url) as rival:
                rival.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE".encode())
                working = asyncio.create_task(start(pool))
                await asyncio.to_thread(wait_until_blocked, database)
                await outlast_the_timeout(pool)
                assert not working.done()
                rival.rollback()
                return await working

    run(wait_for_the_lock())
