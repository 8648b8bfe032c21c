"""AdminService.PurgeDeleted: what is removed for good, what stays, and whose turn it is."""

from typing import Any

import psycopg
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse, PurgeProgress
from palaver.v1.memory_service_pb2 import (
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
)
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
)
from palaver_server.purge.purge_store import PurgeStore
from tests.conftest import StartServer
from tests.support.client import Client, wait_until

Database = psycopg.Connection[tuple[Any, ...]]

NOW = Duration()

# As another server would.
TAKE_TURN = PurgeStore.TAKE_TURN.sql.replace("pg_try_advisory_lock", "pg_advisory_lock")
ASKED_FOR_A_TURN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND query LIKE '%pg_try_advisory_lock%'
"""


def start_purge(palaver: Client, older_than: Duration | None = NOW) -> Any:
    """Begins a purge, which may not wait for its turn for ever."""
    return palaver.admin.PurgeDeleted(PurgeDeletedRequest(older_than=older_than), timeout=20)


def purge(palaver: Client, older_than: Duration | None = NOW) -> PurgeDeletedResponse:
    """Purges, and gives the last response."""
    responses: list[PurgeDeletedResponse] = list(start_purge(palaver, older_than))
    return responses[-1]


def delete(palaver: Client, session_id: str) -> None:
    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id=session_id))


def delete_newest(palaver: Client, session_id: str, last_n: int) -> None:
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id=session_id, last_n=last_n))


def progress(*, sessions: int, messages: int) -> PurgeDeletedResponse:
    """The progress when all of so many are done."""
    return PurgeDeletedResponse(
        sessions=PurgeProgress(done=sessions, estimated=sessions),
        messages=PurgeProgress(done=messages, estimated=messages),
        users=PurgeProgress(),
    )


def rows(database: Database) -> tuple[int, int]:
    """How many sessions and messages there are, deleted or not."""
    counts = database.execute(
        "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM messages)"
    ).fetchone()
    assert counts is not None
    return counts[0], counts[1]


def test_deleted_sessions_and_messages_are_removed_and_counted(
    palaver: Client, database: Database
) -> None:
    palaver.add("a", "1", "2", "3")
    palaver.add("b", "1")
    palaver.sessions.AddSession(AddSessionRequest(session_id="empty"))
    palaver.add("live", "1", "2")
    for session_id in ("a", "b", "empty"):
        delete(palaver, session_id)
    delete_newest(palaver, "live", 1)

    last = purge(palaver)

    assert last == progress(sessions=3, messages=5)
    assert rows(database) == (1, 1)


def test_a_purge_reports_from_the_start_on(palaver: Client) -> None:
    palaver.add("a", "1", "2")
    delete(palaver, "a")

    first, *_, last = start_purge(palaver)

    assert (first.sessions.done, first.sessions.estimated) == (0, 1)
    assert (first.messages.done, first.messages.estimated) == (0, 2)
    assert last == progress(sessions=1, messages=2)


def test_a_purge_of_nothing_reports_nothing_done(palaver: Client) -> None:
    palaver.add("live", "1")

    assert purge(palaver) == progress(sessions=0, messages=0)


def test_a_purge_takes_many_batches(start_server: StartServer, database: Database) -> None:
    palaver = start_server(purge_batch_size=10)
    palaver.add("a", *(str(number) for number in range(35)))
    delete(palaver, "a")
    for number in range(25):
        palaver.sessions.AddSession(AddSessionRequest(session_id=str(number)))
        delete(palaver, str(number))

    last = purge(palaver)

    assert last == progress(sessions=26, messages=35)
    assert rows(database) == (0, 0)


def test_what_is_live_is_not_touched(palaver: Client) -> None:
    palaver.add("live", "1", "2")
    palaver.add("back", "1", "2")
    palaver.add("anew", "1")
    for session_id in ("back", "anew"):
        delete(palaver, session_id)
    palaver.add("back", "3")
    palaver.sessions.AddSession(AddSessionRequest(session_id="anew"))
    sessions = palaver.sessions.ListSessions(ListSessionsRequest())
    names = ("live", "back", "anew")
    memories = [palaver.memory.GetMemory(GetMemoryRequest(session_id=name)) for name in names]

    last = purge(palaver)

    assert last == progress(sessions=0, messages=3)
    assert palaver.sessions.ListSessions(ListSessionsRequest()) == sessions
    assert [
        palaver.memory.GetMemory(GetMemoryRequest(session_id=name)) for name in names
    ] == memories


def test_sequences_start_over_only_after_a_purge(palaver: Client) -> None:
    palaver.add("s", "1", "2")
    delete(palaver, "s")
    before = palaver.add("s", "3")
    delete(palaver, "s")

    purge(palaver)
    after = palaver.add("s", "1")

    assert before.messages[0].sequence == 3
    assert after.session_created
    assert after.messages[0].sequence == 1


def test_the_sequences_of_a_live_session_go_on_after_a_purge(palaver: Client) -> None:
    palaver.add("s", "1", "2", "3")
    delete_newest(palaver, "s", 2)

    purge(palaver)
    added = palaver.add("s", "4")

    assert added.messages[0].sequence == 4


def test_a_second_purger_waits_for_its_turn(
    palaver: Client, database: Database, database_url: str
) -> None:
    palaver.add("s", "1")
    delete(palaver, "s")

    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute(TAKE_TURN)
        second = start_purge(palaver)
        wait_until(lambda: database.execute(ASKED_FOR_A_TURN).fetchone() != (0,))

        assert rows(database) == (1, 1)
        assert second.is_active()
    assert list(second)[-1] == progress(sessions=1, messages=1)
    assert rows(database) == (0, 0)


def test_what_is_deleted_after_the_call_began_stays_although_the_call_waits_for_its_turn(
    palaver: Client, database: Database, database_url: str
) -> None:
    palaver.add("before", "1")
    palaver.add("after", "1")
    delete(palaver, "before")

    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute(TAKE_TURN)
        second = start_purge(palaver)
        wait_until(lambda: database.execute(ASKED_FOR_A_TURN).fetchone() != (0,))
        delete(palaver, "after")

    assert list(second)[-1] == progress(sessions=1, messages=1)
    assert rows(database) == (1, 1)


def test_a_waiting_purger_holds_no_connection(
    start_server: StartServer, database: Database, database_url: str
) -> None:
    palaver = start_server(pool_max_size=1)
    palaver.add("s", "1")

    with psycopg.connect(database_url, autocommit=True) as first:
        first.execute(TAKE_TURN)
        second = start_purge(palaver)
        wait_until(lambda: database.execute(ASKED_FOR_A_TURN).fetchone() != (0,))

        palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    assert list(second)[-1] == progress(sessions=0, messages=0)


def test_the_turn_is_free_again_after_a_purge(palaver: Client, database: Database) -> None:
    for _ in range(3):
        purge(palaver)

    assert database.execute(PurgeStore.TAKE_TURN.sql.encode()).fetchone() == (True,)


def test_a_cancelled_purge_stops_and_the_next_one_goes_on(
    start_server: StartServer, database: Database, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=1)
    palaver.add("s", *(str(number) for number in range(500)))
    delete(palaver, "s")

    cancelled = start_purge(palaver)
    next(cancelled)
    cancelled.cancel()
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("SET lock_timeout = '20s'")
        other.execute(TAKE_TURN)  # once the cancelled purge has ended
        sessions, messages = rows(database)

    assert sessions == 1
    assert messages > 0
    assert purge(start_server()) == progress(sessions=1, messages=messages)
