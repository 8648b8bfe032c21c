"""The deletes of much at once: bounded by the call's deadline, not by the statement timeout."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.pool import Pool
from palaver_server.errors import DeadlineExceeded
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from tests.conftest import Run
from tests.support.concurrency import Connection, wait_until_blocked


@pytest.mark.parametrize("blocked_on", ["sessions", "messages"])
@pytest.mark.parametrize(
    "start_delete",
    [
        lambda pool: SessionStore(pool).delete_session(EVERYTHING, "s"),
        lambda pool: UserStore(pool).delete_user(EVERYTHING, "u"),
    ],
    ids=["session", "user"],
)
def test_delete_may_exceed_statement_timeout(
    start_delete: Callable[[Pool], Coroutine[Any, Any, Any]],
    blocked_on: str,
    database_url: str,
    run: Run,
    database: Connection,
) -> None:
    pool = Pool(database_url, min_size=1, max_size=2, timeout=10, statement_timeout=0.3)

    async def add(session_id: str) -> None:
        message = NewMessage(None, "user", "hello", 0, "{}", None)
        await MemoryStore(pool).add_memory(
            EVERYTHING, session_id, [message], user_id="u", expected_last_sequence=None
        )

    async def outlast_the_timeout() -> None:
        """Wait for a statement that has the timeout and starts after the delete's."""
        async with pool.connection(EVERYTHING.principal) as connection:
            await connection.execute("SELECT pg_sleep(60)")

    async def delete() -> Any:
        await pool.open()
        await add("s")
        with psycopg.connect(database_url) as rival:
            rival.execute(f"SELECT FROM {blocked_on} FOR UPDATE".encode())
            deleting = asyncio.create_task(start_delete(pool))
            await asyncio.to_thread(wait_until_blocked, database)
            with pytest.raises(DeadlineExceeded):
                await outlast_the_timeout()
            assert not deleting.done()
            rival.rollback()
            return await deleting

    deleted = run(delete())

    assert deleted.messages_deleted == 1
    run(pool.close())
