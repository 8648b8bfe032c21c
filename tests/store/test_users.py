"""UserStore: the statement timeout of a delete."""

import asyncio

import psycopg
import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.pool import Pool
from palaver_server.errors import DeadlineExceeded
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.users import DeletedUser, UserStore
from tests.conftest import Run
from tests.support.concurrency import Connection, wait_until_blocked


def test_delete_user_may_exceed_statement_timeout(
    database_url: str, run: Run, database: Connection
) -> None:
    pool = Pool(database_url, min_size=1, max_size=2, timeout=10, statement_timeout=0.3)

    async def add(user_id: str | None) -> None:
        message = NewMessage(None, "user", "hello", 0, "{}", None)
        memory = MemoryStore(pool)
        await memory.add_memory(
            EVERYTHING, "s", [message], user_id=user_id, expected_last_sequence=None
        )

    async def delete() -> DeletedUser:
        await pool.open()
        await add("u")
        with psycopg.connect(database_url) as rival:
            rival.execute("SELECT FROM sessions FOR UPDATE")
            deleting = asyncio.create_task(UserStore(pool).delete_user(EVERYTHING, "u"))
            await asyncio.to_thread(wait_until_blocked, database)
            with pytest.raises(DeadlineExceeded):
                await add(None)
            assert not deleting.done()
            rival.rollback()
            return await deleting

    deleted = run(delete())

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (1, 1)
    run(pool.close())
