"""Micro-batching in the stores: calls that start together share a statement."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg
import pytest

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.pool import Pool
from palaver_server.errors import NotFound
from palaver_server.store.memory import AddedMemory, MemoryStore, NewMessage
from palaver_server.store.sessions import SessionStore
from palaver_server.store.window import Window
from tests.support.concurrency import Connection, begin, wait_until_blocked
from tests.support.rows import let_expire

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, Any]], Any]

SESSION_IDS = [f"s{number:02}" for number in range(20)]


@pytest.fixture
def memory(pool: Pool) -> MemoryStore:
    return MemoryStore(pool)


def together(run: Run, calls: Sequence[Awaitable[T]]) -> list[T | BaseException]:
    async def gather() -> list[T | BaseException]:
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes: list[T | BaseException] = run(gather())
    return outcomes


def adding(
    memory: MemoryStore, session_id: str, *contents: str, access: Access = EVERYTHING
) -> Awaitable[AddedMemory]:
    messages = [NewMessage(None, "user", content, 0, "{}", None) for content in contents]
    return memory.add_memory(access, session_id, messages, user_id=None)


def sequences(outcome: AddedMemory | BaseException) -> list[int]:
    assert isinstance(outcome, AddedMemory), outcome
    return [message.sequence for message in outcome.messages]


def transactions(database: Connection, content: str) -> int:
    query = "SELECT count(DISTINCT xmin::text) FROM messages WHERE content = %s"
    (count,) = database.execute(query, [content]).fetchone() or ()
    return int(count)


@pytest.fixture
def sessions(run: Run, memory: MemoryStore) -> list[str]:
    """Sessions with one message each."""
    together(run, [adding(memory, session_id, "first") for session_id in SESSION_IDS])
    return SESSION_IDS


def test_batched_session_reads_share_connection_and_get_own_results(
    run: Run, pool: Pool, sessions: list[str]
) -> None:
    store = SessionStore(pool)
    asked = [*sessions, "unknown", sessions[0]]
    before = pool.stats()["requests_num"]

    outcomes = together(run, [store.get_session(EVERYTHING, session_id) for session_id in asked])

    assert pool.stats()["requests_num"] - before == 1
    assert isinstance(outcomes.pop(-2), NotFound)
    assert [getattr(row, "session_id", row) for row in outcomes] == [*sessions, sessions[0]]


def test_batched_memory_reads_keep_their_own_limits(
    run: Run, memory: MemoryStore, sessions: list[str]
) -> None:
    together(run, [adding(memory, "s00", "second", "third"), adding(memory, "s01", "second")])
    asked = [("s00", 1, 0), ("s00", 2, 0), ("s01", 2, 0), ("unknown", 2, 0), ("s00", 9, 3)]

    outcomes = together(
        run,
        [
            memory.get_memory(EVERYTHING, name, Window(last_n=last_n, max_tokens=most))
            for name, last_n, most in asked
        ],
    )

    assert isinstance(outcomes.pop(3), NotFound)
    contents = [[m.content for m in getattr(each, "messages").rows] for each in outcomes]  # noqa: B009
    assert contents == [["third"], ["second", "third"], ["first", "second"], ["second", "third"]]


def test_batched_appends_to_existing_sessions_share_commit(
    run: Run, memory: MemoryStore, sessions: list[str], database: Connection
) -> None:
    outcomes = together(run, [adding(memory, name, "second", "second") for name in sessions])

    assert [sequences(outcome) for outcome in outcomes] == [[2, 3]] * len(sessions)
    assert transactions(database, "second") == 1


def test_appends_of_much_metadata_share_no_statement(
    run: Run, memory: MemoryStore, sessions: list[str], database: Connection
) -> None:
    metadata = f'{{"a": "{"x" * 20_000}"}}'
    messages = [NewMessage(None, "user", "second", 0, metadata, None)]
    appends = [memory.add_memory(EVERYTHING, name, messages, user_id=None) for name in sessions]

    together(run, appends)

    assert transactions(database, "second") == len(sessions)


def test_batched_appends_to_one_session_are_sequential(
    run: Run, memory: MemoryStore, sessions: list[str]
) -> None:
    outcomes = together(run, [adding(memory, name, "again") for name in ["s00", "s01"] * 5])

    given = [sequences(outcome) for outcome in outcomes]
    assert sorted(given[::2]) == sorted(given[1::2]) == [[2], [3], [4], [5], [6]]


def test_batched_appends_create_and_restore_sessions(
    run: Run, memory: MemoryStore, pool: Pool, sessions: list[str]
) -> None:
    run(SessionStore(pool).delete_session(EVERYTHING, "s00"))

    new, back, live = together(run, [adding(memory, name, "x") for name in ("new", "s00", "s01")])

    assert isinstance(new, AddedMemory)
    assert isinstance(back, AddedMemory)
    assert isinstance(live, AddedMemory)
    assert (new.session_created, new.session_undeleted) == (True, False)
    assert (back.session_created, back.session_undeleted) == (False, True)
    assert (live.session_created, live.session_undeleted) == (False, False)
    assert [sequences(new), sequences(back), sequences(live)] == [[1], [2], [2]]


def test_batched_calls_see_what_has_expired(
    run: Run, memory: MemoryStore, pool: Pool, sessions: list[str], database: Connection
) -> None:
    let_expire(database, "s00")
    store = SessionStore(pool)
    names = ["s01", "s00", "s02"]

    read = together(run, [store.get_session(EVERYTHING, name) for name in names])
    windows = together(run, [memory.get_memory(EVERYTHING, name, Window(10)) for name in names])
    live, back, _ = together(run, [adding(memory, name, "x") for name in names])

    assert [isinstance(outcome, NotFound) for outcome in read] == [False, True, False]
    assert [isinstance(outcome, NotFound) for outcome in windows] == [False, True, False]
    assert isinstance(live, AddedMemory)
    assert isinstance(back, AddedMemory)
    assert (live.session_undeleted, back.session_undeleted) == (False, True)


def test_batched_append_to_locked_session_does_not_block_others(
    run: Run, memory: MemoryStore, sessions: list[str], database: Connection, database_url: str
) -> None:
    done: list[str] = []

    async def add(session_id: str) -> None:
        await adding(memory, session_id, "second")
        done.append(session_id)

    with psycopg.connect(database_url) as rival:
        rival.execute("SELECT FROM sessions WHERE session_id = 's07' FOR UPDATE")
        adds = begin(lambda: together(run, [add(session_id) for session_id in sessions]))
        wait_until_blocked(database, 1)

        assert sorted([*done, "s07"]) == sessions
        database.execute("SELECT FROM sessions WHERE session_id <> 's07' FOR UPDATE NOWAIT")
        rival.rollback()

    assert adds.result() == [None] * len(sessions)
    assert sorted(done) == sessions


def test_batched_append_that_fails_does_not_fail_others(
    run: Run, memory: MemoryStore, sessions: list[str], database: Connection
) -> None:
    database.execute("ALTER TABLE messages ADD CHECK (content <> 'bad')")

    outcomes = together(
        run, [adding(memory, name, "bad" if name == "s03" else "good") for name in sessions]
    )

    assert isinstance(outcomes.pop(3), psycopg.errors.CheckViolation)
    assert [sequences(outcome) for outcome in outcomes] == [[2]] * (len(sessions) - 1)


def test_batched_calls_of_different_access_scopes_are_separate(
    run: Run, memory: MemoryStore, pool: Pool, database: Connection
) -> None:
    names = ("ada", "bob")
    together(run, [adding(memory, f"of {name} {n}", "x") for name in names for n in range(2)])
    database.execute("UPDATE sessions SET user_id = substr(session_id, 4, 3)")
    store, asked = SessionStore(pool), sorted(f"of {name} {n}" for name in names for n in range(2))
    users = (None, *names)

    def found_by(how: Callable[[Access, str], Awaitable[Any]]) -> dict[str | None, list[str]]:
        pairs = [(user, session_id) for session_id in asked for user in users]
        calls = [how(Access(user), session_id) for user, session_id in pairs]
        found: dict[str | None, list[str]] = {user: [] for user in users}
        for (user, session_id), outcome in zip(pairs, together(run, calls), strict=True):
            if not isinstance(outcome, NotFound):
                found[user].append(session_id)
        return found

    own = {None: asked, "ada": asked[:2], "bob": asked[2:]}
    assert found_by(store.get_session) == own
    assert found_by(partial(memory.get_memory, window=Window(last_n=1))) == own
    assert found_by(lambda access, name: adding(memory, name, "y", access=access)) == own
    assert database.execute("SELECT DISTINCT last_sequence FROM sessions").fetchall() == [(3,)]
