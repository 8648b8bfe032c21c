"""Plans in steady state: a statement costs what it returns, not what the tables hold."""

import uuid
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.paging import KeyRange
from palaver_server.purge.purge_store import PurgeStore
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.messages import MessageStore, Selection
from palaver_server.store.sessions import SessionFilter, SessionStore
from palaver_server.store.users import UserFilter, UserStore
from palaver_server.store.window import MAX_PINNED, Window
from tests.conftest import Run
from tests.support.plans import Explained, Plan, explained
from tests.support.rows import accept

pytestmark = pytest.mark.slow

LIMIT = 5
SESSIONS = 50_000  # 10,000 pages
MESSAGES = 100_000
A_FEW_PAGES = 160

# 500 sessions a user, created a second apart; 3 with another subscription plan.
FILL_SESSIONS = f"""
    INSERT INTO sessions (session_id, user_id, metadata, created_at, last_sequence)
    SELECT 's' || i, 'u' || i % 100,
        jsonb_build_object('plan', CASE WHEN i % 20000 = 1 THEN 'pro' ELSE 'free' END),
        timestamptz '2020-01-01 00:00Z' + i * interval '1 second',
        {MESSAGES}
    FROM generate_series(1, {SESSIONS}) i
"""
# As many users as sessions: a page costs the same. Most users have no session.
FILL_USERS = f"""
    INSERT INTO users (user_id, email, metadata)
    SELECT 'u' || i, CASE WHEN i % 10 = 0 THEN 'u' || i || '@example.com' ELSE '' END,
        jsonb_build_object('plan', CASE WHEN i % 20000 = 1 THEN 'pro' ELSE 'free' END)
    FROM generate_series(0, {SESSIONS} - 1) i
"""
FILL_MESSAGES = """
    INSERT INTO messages (session_id, sequence, message_id, role, content, deleted_at)
    SELECT %s, i, 'm' || i, 'user', 'message ' || i, CASE WHEN i > %s THEN now() END
    FROM generate_series(1, %s) i
"""


@pytest.fixture(scope="module")
def filled(postgres: str, template: str, run: Run) -> Iterator[Explained]:
    """50,000 sessions: s1 has 100,000 messages, s2 has 20, followed by 20,000 deleted ones.

    100 of the 50,000 users have 500 sessions each.
    """
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        if connection.info.parameter_status("is_superuser") != "on":
            pytest.skip("only a superuser may explain what others run")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        url = make_conninfo(postgres, dbname=name)
        with psycopg.connect(url, autocommit=True) as filling:
            filling.execute(FILL_SESSIONS)
            filling.execute(FILL_MESSAGES, ["s1", MESSAGES, MESSAGES])
            filling.execute(FILL_MESSAGES, ["s2", 20, 20_020])
            filling.execute(FILL_USERS)
            filling.execute("ANALYZE")
        with explained(url, run) as result:
            yield result
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def list_sessions(filled: Explained, key_range: KeyRange, **filter: Any) -> Plan:
    store = SessionStore(filled.pool)
    narrowed = SessionFilter(**filter)
    return filled.costliest(
        lambda: store.list_sessions(EVERYTHING, key_range, limit=LIMIT, filter=narrowed)
    )


@pytest.mark.parametrize("newest_first", [False, True])
def test_plan_of_session_page_costs_the_same_at_any_cursor(
    filled: Explained, *, newest_first: bool
) -> None:
    first = list_sessions(filled, KeyRange(newest_first=newest_first))
    last_page = LIMIT + 1 if newest_first else SESSIONS - LIMIT
    last = list_sessions(filled, KeyRange.from_cursor(last_page, newest_first=newest_first))

    assert first.ways == last.ways == {"sessions_listing"}
    assert first.rows == LIMIT + 1
    assert last.rows == LIMIT
    assert last.pages <= first.pages + 3


def test_plan_of_sessions_of_user_uses_index(filled: Explained) -> None:
    for cursor in (0, SESSIONS // 2):
        plan = list_sessions(filled, KeyRange.from_cursor(cursor), user_id="u7")

        assert plan.ways == {"sessions_listing_of_user"}
        assert plan.rows == LIMIT + 1


@pytest.mark.parametrize(
    "filter",
    [
        {"created_after": datetime(2020, 1, 1, tzinfo=UTC) + timedelta(seconds=SESSIONS)},
        {"created_before": datetime(2020, 1, 1, 0, 0, 3, tzinfo=UTC)},
        {"metadata": '$.plan == "pro"'},
        {"session_id_prefix": "s4999"},
    ],
    ids=["created_after", "created_before", "metadata", "session_id_prefix"],
)
def test_plan_of_selective_filter_stays_cheap_when_repeated(
    filled: Explained, filter: dict[str, Any]
) -> None:
    for newest_first in (False, True):
        plan = list_sessions(filled, KeyRange(newest_first=newest_first), **filter)

        assert plan.rows <= 10 * LIMIT


@pytest.mark.parametrize(
    ("filter", "index"),
    [
        ({"user_id_prefix": "u4999"}, "users_pkey"),
        ({"user_ids": ["u1", "u49999", "nobody"]}, "users_pkey"),
        ({"email": "u40000@example.com"}, "users_email"),
        ({"metadata": '$.plan == "pro"'}, "users_metadata"),
    ],
    ids=["user_id_prefix", "user_ids", "email", "metadata"],
)
def test_plan_of_selective_user_filter_uses_index(
    filled: Explained, filter: dict[str, Any], index: str
) -> None:
    store = UserStore(filled.pool)
    narrowed = UserFilter(**filter)

    plan = filled.costliest(
        lambda: store.list_users(EVERYTHING, KeyRange(), limit=LIMIT, filter=narrowed)
    )

    assert index in plan.ways
    assert plan.rows <= 4 * LIMIT


def test_plan_of_last_position_reads_end_of_index(filled: Explained) -> None:
    plan = filled.costliest(lambda: SessionStore(filled.pool).last_id(EVERYTHING))

    assert plan.rows == 1


@pytest.mark.parametrize("newest_first", [False, True])
def test_plan_of_user_page_costs_the_same_at_any_cursor(
    filled: Explained, *, newest_first: bool
) -> None:
    store = UserStore(filled.pool)
    last_page = LIMIT + 1 if newest_first else SESSIONS - LIMIT

    first, last = (
        filled.costliest(lambda: store.list_users(EVERYTHING, key_range, limit=LIMIT))  # noqa: B023
        for key_range in (
            KeyRange(newest_first=newest_first),
            KeyRange.from_cursor(last_page, newest_first=newest_first),
        )
    )

    assert first.ways == last.ways == {"users_listing"}
    assert (first.rows, last.rows) == (LIMIT + 1, LIMIT)
    assert last.pages <= first.pages + 3


@pytest.mark.parametrize(
    "key_range",
    [KeyRange(), KeyRange(after=MESSAGES // 2), KeyRange(before=MESSAGES // 2, newest_first=True)],
    ids=["first page", "page in the middle", "page in the middle, newest first"],
)
def test_plan_of_message_page_costs_what_it_returns(filled: Explained, key_range: KeyRange) -> None:
    store = MessageStore(filled.pool)

    plan = filled.costliest(lambda: store.list_messages(EVERYTHING, "s1", key_range, limit=LIMIT))

    assert plan.rows == LIMIT + 2  # plus the session's row, and the row that says there is more
    assert plan.pages < A_FEW_PAGES


@pytest.mark.parametrize("max_tokens", [0, 3])
def test_plan_of_memory_costs_what_it_returns(filled: Explained, max_tokens: int) -> None:
    store = MemoryStore(filled.pool)

    plan = filled.costliest(
        lambda: store.get_memory(EVERYTHING, "s1", Window(last_n=LIMIT, max_tokens=max_tokens))
    )

    assert plan.rows == LIMIT + 2
    assert plan.pages < A_FEW_PAGES


@pytest.mark.parametrize("role", ["system", "user"])
def test_plan_of_pinned_messages_costs_what_it_returns(filled: Explained, role: str) -> None:
    store = MemoryStore(filled.pool)

    plan = filled.costliest(
        lambda: store.get_memory(
            EVERYTHING, "s1", Window(last_n=LIMIT, pinned_roles=[role, "absent"])
        )
    )

    assert plan.rows <= 2 * LIMIT + MAX_PINNED + 4
    assert plan.pages < A_FEW_PAGES


READS_OF_WHAT_IS_LEFT: dict[str, Callable[[Explained], Coroutine[Any, Any, Any]]] = {
    "GetMemory": lambda filled: MemoryStore(filled.pool).get_memory(
        EVERYTHING, "s2", Window(last_n=LIMIT)
    ),
    "ListMessages": lambda filled: MessageStore(filled.pool).list_messages(
        EVERYTHING, "s2", KeyRange(after=18), limit=LIMIT
    ),
    "ListMessages, newest first": lambda filled: MessageStore(filled.pool).list_messages(
        EVERYTHING, "s2", KeyRange(newest_first=True), limit=LIMIT
    ),
    "DeleteMessages": lambda filled: MessageStore(filled.pool).delete_messages(
        EVERYTHING, "s2", Selection(last_n=1), accept
    ),
}


@pytest.mark.parametrize("read", READS_OF_WHAT_IS_LEFT)
def test_plan_of_reads_ignores_deleted_messages(filled: Explained, read: str) -> None:
    plan = filled.costliest(lambda: READS_OF_WHAT_IS_LEFT[read](filled))

    assert plan.rows <= 10 * LIMIT
    assert plan.pages < A_FEW_PAGES


WRITES: dict[str, Callable[[Explained], Coroutine[Any, Any, Any]]] = {
    "AddMemory": lambda filled: add_memory(filled, None, None),
    "AddMemory with ids": lambda filled: add_memory(filled, "m7", uuid.uuid4().hex),
    "GetMessage": lambda filled: MessageStore(filled.pool).get_message(EVERYTHING, "s1", "m77777"),
    "UpdateMessage": lambda filled: MessageStore(filled.pool).update_message(
        EVERYTHING, "s1", "m77777", lambda row: row._replace(content="changed")
    ),
    "DeleteMessages": lambda filled: MessageStore(filled.pool).delete_messages(
        EVERYTHING, "s1", Selection(message_ids=["m88888", "m99999", "unknown"]), accept
    ),
}


def add_memory(
    filled: Explained, *message_ids: str | None, user_id: str | None = None
) -> Coroutine[Any, Any, Any]:
    messages = [NewMessage(name, "user", "new", 0, "{}", None) for name in message_ids]
    return MemoryStore(filled.pool).add_memory(EVERYTHING, "s1", messages, user_id=user_id)


@pytest.mark.parametrize("write", WRITES)
def test_plan_of_writes_is_independent_of_session_length(filled: Explained, write: str) -> None:
    plan = filled.costliest(lambda: WRITES[write](filled))

    assert plan.rows <= 2 * LIMIT
    assert plan.pages < A_FEW_PAGES


def test_plan_of_add_memory_to_existing_session_reads_no_user(
    filled: Explained,
) -> None:
    (plan,) = filled.all_of(lambda: add_memory(filled, None, user_id="u7"))
    assert "sessions_pkey" in plan.ways

    plans = filled.all_of(lambda: add_memory(filled, "m7", user_id="u7"))
    assert len(plans) == 2  # the row lock, and the insert
    assert not any("users" in way for plan in plans for way in plan.ways)


def test_plan_of_purge_backlog_costs_what_it_counts(filled: Explained, run: Run) -> None:
    store = PurgeStore(filled.pool)
    before = run(store.cutoff(timedelta(0)))
    limit = 50

    plan = filled.costliest(lambda: store.backlog(before, limit=limit))

    assert run(store.backlog(before, limit=limit))["messages"].rows == limit
    assert plan.rows <= limit
    assert plan.ways == {"messages_deleted", "sessions_deleted", "users_deleted"}


def test_plan_of_purge_batch_costs_what_it_removes(filled: Explained, run: Run) -> None:
    limit = 100

    async def purge() -> None:
        store = PurgeStore(filled.pool)
        before = await store.cutoff(timedelta(0))
        async with store.turn() as turn:
            assert turn
            assert await turn.purge_messages(before, limit=limit) == limit
            await turn.purge_sessions(before, limit=limit)
            await turn.purge_users(before, limit=limit)

    plan = filled.costliest(purge)

    assert plan.rows <= 3 * limit
