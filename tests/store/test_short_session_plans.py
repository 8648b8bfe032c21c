"""Plans of calls about the one long session where all others are short.

The planner's statistics say that every session has few messages.
"""

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.paging import KeyRange
from palaver_server.store.memory import MemoryStore, NewMessage
from palaver_server.store.messages import MessageStore, Selection
from palaver_server.store.window import Window
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.plans import Explained, explained
from tests.support.rows import accept

pytestmark = pytest.mark.slow

NAMED = 20

FILL = [
    """
    INSERT INTO sessions (session_id, last_sequence)
    SELECT 's' || i, 2 FROM generate_series(1, 10000) i UNION ALL SELECT 'long', 10000
    """,
    """
    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT session_id, i, 'm' || i, 'user', 'hello'
    FROM sessions, LATERAL generate_series(1, last_sequence) i
    """,
    "VACUUM ANALYZE",
]


@pytest.fixture
def filled(database_url: str, database: Connection, run: Run) -> Iterator[Explained]:
    if database.info.parameter_status("is_superuser") != "on":
        pytest.skip("only a superuser may explain what others run")
    for statement in FILL:
        database.execute(statement.encode())
    with explained(database_url, run) as filled:
        yield filled


def add_memory(filled: Explained) -> Coroutine[Any, Any, Any]:
    messages = [NewMessage(f"m{7 * i}", "user", "new", 0, "{}", None) for i in range(NAMED)]
    return MemoryStore(filled.pool).add_memory(EVERYTHING, "long", messages, user_id=None)


def delete_messages(filled: Explained) -> Coroutine[Any, Any, Any]:
    message_ids = [f"m{7 * i}" for i in range(NAMED)]
    return MessageStore(filled.pool).delete_messages(
        EVERYTHING, "long", Selection(message_ids=message_ids), accept
    )


CALLS: dict[str, Callable[[Explained], Coroutine[Any, Any, Any]]] = {
    "AddMemory": add_memory,
    "DeleteMessages": delete_messages,
    "GetMessage": lambda filled: MessageStore(filled.pool).get_message(EVERYTHING, "long", "m777"),
    "UpdateMessage": lambda filled: MessageStore(filled.pool).update_message(
        EVERYTHING, "long", "m777", lambda row: row._replace(content="changed")
    ),
    "GetMemory": lambda filled: MemoryStore(filled.pool).get_memory(
        EVERYTHING, "long", Window(last_n=NAMED, max_tokens=0)
    ),
    "ListMessages": lambda filled: MessageStore(filled.pool).list_messages(
        EVERYTHING, "long", KeyRange.from_cursor(777), limit=NAMED
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_plan_of_call_costs_what_it_names(filled: Explained, call: str) -> None:
    plan = filled.costliest(lambda: CALLS[call](filled))

    assert plan.rows <= 3 * NAMED
