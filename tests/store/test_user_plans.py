"""Plans of calls about a user: they cost what the user has, not what the tables hold."""

from itertools import count

import pytest

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.paging import KeyRange
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.sessions import SessionStore
from palaver_server.store.users import UserStore
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.plans import explained

pytestmark = pytest.mark.slow

# 20,000 sessions of 3 messages, 4 for each user; a tenth of them is deleted.
FILL = [
    "INSERT INTO users (user_id) SELECT 'u' || i FROM generate_series(0, 4999) i",
    """
    INSERT INTO sessions (session_id, user_id, last_sequence, deleted_at)
    SELECT 's' || i, 'u' || i % 5000, 3, CASE WHEN i > 18000 THEN now() END
    FROM generate_series(1, 20000) i
    """,
    """
    INSERT INTO messages (session_id, sequence, message_id, role, content, deleted_at)
    SELECT session_id, i, 'm' || i, 'user', 'hello', deleted_at
    FROM sessions, generate_series(1, 3) i
    """,
    "ANALYZE",
]


def test_plan_of_user_listing_with_access_scope_reads_one_user(
    database_url: str, database: Connection, run: Run
) -> None:
    if database.info.parameter_status("is_superuser") != "on":
        pytest.skip("only a superuser may explain what others run")
    for statement in FILL:
        database.execute(statement.encode())
    with explained(database_url, run) as filled:

        async def list_users() -> None:
            store = UserStore(filled.pool)
            page = await store.list_users(Access("u4900"), KeyRange(), limit=5)
            assert [user.user_id for user in page.rows] == ["u4900"]

        plan = filled.costliest(list_users)

    assert plan.rows == 1


def test_plan_of_delete_user_costs_what_the_user_has(
    database_url: str, database: Connection, run: Run
) -> None:
    if database.info.parameter_status("is_superuser") != "on":
        pytest.skip("only a superuser may explain what others run")
    for statement in FILL:
        database.execute(statement.encode())
    with explained(database_url, run) as filled:
        sessions, memory, users = (
            SessionStore(filled.pool), MemoryStore(filled.pool), UserStore(filled.pool),
        )  # fmt: skip
        messages = [NewMessage(None, "user", "new", 0, "{}", None)] * 2

        numbers = count()

        async def give_and_delete() -> None:
            user_id = f"few {next(numbers)}"
            await sessions.add_session(
                EVERYTHING, f"0 of {user_id}", user_id=user_id, metadata="{}"
            )
            await sessions.delete_session(EVERYTHING, f"0 of {user_id}")
            for number in (1, 2):
                await memory.add_memory(
EVERYTHING,                     f"{number} of {user_id}", messages, user_id=user_id
                )  # fmt: skip
            deleted = await users.delete_user(EVERYTHING, user_id)
            assert (deleted.sessions_deleted, deleted.messages_deleted) == (2, 4)

        plan = filled.costliest(give_and_delete)

    assert plan.rows <= 20
    assert plan.pages < 120
