"""AdminService.PurgeDeleted: which rows are removed, which are kept, and the reported progress."""

from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse, PurgeProgress
from palaver.v1.user_pb2 import User
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import (
    Connection,
)
from tests.support.locks import (
    end_purge_lease,
    has_purge_lease,
    lease_requests,
    take_purge_lease,
)
from tests.support.rows import age_deleted_rows, count_sessions_and_messages

NOW = Duration()


def start_purge(palaver: Client, older_than: Duration | None = NOW) -> Any:
    """Start a purge, with a deadline for its wait for the turn."""
    return palaver.admin.PurgeDeleted(PurgeDeletedRequest(older_than=older_than), timeout=20)


def progress(*, sessions: int, messages: int) -> PurgeDeletedResponse:
    """Return the progress when all rows of these numbers are removed."""
    return PurgeDeletedResponse(
        sessions=PurgeProgress(done=sessions, estimated=sessions),
        messages=PurgeProgress(done=messages, estimated=messages),
        users=PurgeProgress(),
    )


# --- Contract ----------------------------------------------------------------------------------


def test_purge_deleted_deleted_user_is_removed_with_sessions_and_messages(
    palaver: Client, ada: User, database: Connection
) -> None:
    palaver.add("bob's", "one", user_id="bob")
    palaver.delete_user("ada")

    first, *_, last = palaver.admin.PurgeDeleted(PurgeDeletedRequest(older_than=Duration()))

    estimated = first.users.estimated, first.sessions.estimated, first.messages.estimated
    done = last.users.done, last.sessions.done, last.messages.done
    assert estimated == done == (1, 2, 4)
    assert (first.users.done, last.users.estimated) == (0, 1)
    assert database.execute("SELECT user_id FROM users").fetchall() == [("bob",)]
    assert palaver.contents("bob's") == ["one"]


def test_purge_deleted_rows_started_over_are_kept(palaver: Client, ada: User) -> None:
    palaver.delete_user("ada")
    palaver.add_user("ada", email="new")
    palaver.add("s", "new", user_id="ada")
    before = palaver.get_user("ada"), palaver.get_session("s")

    last = palaver.purge()

    assert (last.users.done, last.sessions.done, last.messages.done) == (0, 1, 4)
    assert (palaver.get_user("ada"), palaver.get_session("s")) == before
    assert palaver.contents("s") == ["new"]


def test_purge_deleted_older_than_keeps_recently_deleted_user(palaver: Client, ada: User) -> None:
    palaver.delete_user("ada")
    request = PurgeDeletedRequest(older_than=Duration(seconds=3600))

    *_, last = palaver.admin.PurgeDeleted(request)

    assert (last.users.done, last.sessions.done, last.messages.done) == (0, 0, 0)


def test_purge_deleted_deleted_rows_are_removed_and_counted(
    palaver: Client, database: Connection
) -> None:
    palaver.add("a", "1", "2", "3")
    palaver.add("b", "1")
    palaver.add_session("empty")
    palaver.add("live", "1", "2")
    for session_id in ("a", "b", "empty"):
        palaver.delete_memory(session_id)
    palaver.delete_messages("live", last_n=1)

    last = palaver.purge()

    assert last == progress(sessions=3, messages=5)
    assert count_sessions_and_messages(database) == (1, 1)


def test_purge_deleted_reports_progress_from_the_start(palaver: Client) -> None:
    palaver.add("a", "1", "2")
    palaver.delete_memory("a")

    first, *_, last = start_purge(palaver)

    assert (first.sessions.done, first.sessions.estimated) == (0, 1)
    assert (first.messages.done, first.messages.estimated) == (0, 2)
    assert last == progress(sessions=1, messages=2)


def test_purge_deleted_without_deleted_rows_reports_zero(palaver: Client) -> None:
    palaver.add("live", "1")

    assert palaver.purge() == progress(sessions=0, messages=0)


def test_purge_deleted_many_rows_take_several_batches(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(purge_batch_size=10)
    palaver.add("a", *(str(number) for number in range(35)))
    palaver.delete_memory("a")
    for number in range(25):
        palaver.add_session(str(number))
        palaver.delete_memory(str(number))

    last = palaver.purge()

    assert last == progress(sessions=26, messages=35)
    assert count_sessions_and_messages(database) == (0, 0)


def test_purge_deleted_live_rows_are_kept(palaver: Client) -> None:
    palaver.add("live", "1", "2")
    palaver.add("restored", "1", "2")
    palaver.add("recreated", "1")
    for session_id in ("restored", "recreated"):
        palaver.delete_memory(session_id)
    palaver.add("restored", "3")
    palaver.add_session("recreated")
    sessions = palaver.list_sessions()
    names = ("live", "restored", "recreated")
    memories = [palaver.get_memory(name) for name in names]

    last = palaver.purge()

    assert last == progress(sessions=0, messages=3)
    assert palaver.list_sessions() == sessions
    assert [palaver.get_memory(name) for name in names] == memories


def test_purge_deleted_purged_session_restarts_sequences(palaver: Client) -> None:
    palaver.add("s", "1", "2")
    palaver.delete_memory("s")
    before = palaver.add("s", "3")
    palaver.delete_memory("s")

    palaver.purge()
    after = palaver.add("s", "1")

    assert before.messages[0].sequence == 3
    assert after.session_created
    assert after.messages[0].sequence == 1


def test_purge_deleted_live_session_continues_sequences(palaver: Client) -> None:
    palaver.add("s", "1", "2", "3")
    palaver.delete_messages("s", last_n=2)

    palaver.purge()
    added = palaver.add("s", "4")

    assert added.messages[0].sequence == 4


def test_purge_deleted_older_than_keeps_recently_deleted_rows(
    start_server: StartServer, database: Connection, subtests: pytest.Subtests
) -> None:
    servers = {hours: start_server(purge_retention_seconds=hours * 3600) for hours in (0, 1, 3)}

    for retention, older_than, done in (
        (0, None, 1),
        (1, None, 1),
        (3, None, 0),
        (3, NOW, 1),
        (0, Duration(seconds=1 * 3600), 1),
        (0, Duration(seconds=3 * 3600), 0),
        (0, Duration(seconds=315_576_000_000), 0),  # 10,000 years
    ):
        with subtests.test(retention=retention, older_than=older_than):
            palaver = servers[retention]
            palaver.add("two hours ago", "1")
            palaver.delete_memory("two hours ago")
            age_deleted_rows(database, timedelta(hours=2))

            last = palaver.purge(older_than=older_than)

            assert last == progress(sessions=done, messages=done)
            assert count_sessions_and_messages(database) == (1 - done, 1 - done)
        palaver.purge()


# --- Limits ------------------------------------------------------------------------------------


def test_purge_deleted_negative_older_than_is_refused(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "1")
    palaver.delete_memory("s")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.purge(older_than=Duration(seconds=-1))

    assert [v.field for v in refusal.detail(BadRequest).field_violations] == ["older_than"]
    assert count_sessions_and_messages(database) == (1, 1)


# --- Concurrency -------------------------------------------------------------------------------


def test_purge_deleted_second_call_waits_for_its_turn(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "1")
    palaver.delete_memory("s")

    take_purge_lease(database)
    second = start_purge(palaver)
    wait_until(lambda: bool(lease_requests(database)))

    assert count_sessions_and_messages(database) == (1, 1)
    assert second.is_active()
    end_purge_lease(database)
    assert list(second)[-1] == progress(sessions=1, messages=1)
    assert count_sessions_and_messages(database) == (0, 0)


def test_purge_deleted_rows_deleted_during_wait_for_turn_are_kept(
    palaver: Client, database: Connection
) -> None:
    palaver.add("before", "1")
    palaver.add("after", "1")
    palaver.delete_memory("before")

    take_purge_lease(database)
    second = start_purge(palaver)
    wait_until(lambda: bool(lease_requests(database)))
    palaver.delete_memory("after")
    end_purge_lease(database)

    assert list(second)[-1] == progress(sessions=1, messages=1)
    assert count_sessions_and_messages(database) == (1, 1)


def test_purge_deleted_waiting_call_holds_no_connection(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(pool_max_size=1)
    palaver.add("s", "1")

    take_purge_lease(database)
    second = start_purge(palaver)
    wait_until(lambda: bool(lease_requests(database)))

    palaver.get_session("s")
    end_purge_lease(database)
    assert list(second)[-1] == progress(sessions=0, messages=0)


def test_purge_deleted_finished_call_releases_turn(palaver: Client, database: Connection) -> None:
    for _ in range(3):
        palaver.purge()

    assert not has_purge_lease(database)


def test_purge_deleted_cancelled_call_stops_and_next_continues(
    palaver: Client, database: Connection, database_url: str
) -> None:
    palaver.add("s", "1", "2")
    palaver.delete_memory("s")

    with psycopg.connect(database_url) as other:
        # The purge can choose sessions, but not remove them: it cannot end before it is cancelled.
        other.execute("LOCK TABLE sessions IN SHARE MODE")
        cancelled = start_purge(palaver)
        wait_until(lambda: count_sessions_and_messages(database) == (1, 0))
        assert has_purge_lease(database)
        cancelled.cancel()
        wait_until(lambda: not has_purge_lease(database))

    assert count_sessions_and_messages(database) == (1, 0)
    assert palaver.purge() == progress(sessions=1, messages=0)


OLD_VERSIONS_LOCK = """
    SELECT pg_advisory_lock(hashtextextended('palaver purge ' || current_schema(), 0))
"""


def test_purge_deleted_waits_for_purge_of_old_version(
    palaver: Client, database: Connection, database_url: str
) -> None:
    palaver.add("s", "1")
    palaver.delete_memory("s")

    with psycopg.connect(database_url, autocommit=True) as old_version:
        old_version.execute(OLD_VERSIONS_LOCK)
        purge = start_purge(palaver)
        wait_until(lambda: len(lease_requests(database)) > 0 and not has_purge_lease(database))

        assert count_sessions_and_messages(database) == (1, 1)
        assert purge.is_active()
    assert list(purge)[-1] == progress(sessions=1, messages=1)


def test_purge_deleted_lease_of_crashed_purger_expires(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "1")
    palaver.delete_memory("s")
    take_purge_lease(database)
    database.execute("UPDATE purge_lease SET expires_at = now() + interval '1 second'")

    assert palaver.purge() == progress(sessions=1, messages=1)


def test_purge_deleted_lease_from_before_clock_was_set_back_does_not_count(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "1")
    palaver.delete_memory("s")
    take_purge_lease(database)
    database.execute("UPDATE purge_lease SET expires_at = now() + interval '10 years'")

    assert palaver.purge() == progress(sessions=1, messages=1)


# Gives the lease to another purger, in the transaction of a batch.
LOSE_LEASE = """
    CREATE FUNCTION lose_lease() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE purge_lease SET holder = 'another', expires_at = now() + interval '1 minute';
        RETURN NULL;
    END $$;
    CREATE TRIGGER lose_lease AFTER DELETE ON messages EXECUTE FUNCTION lose_lease();
"""


def test_purge_deleted_call_that_loses_its_turn_continues_later(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(purge_batch_size=1)
    palaver.add("s", "1", "2", "3")
    palaver.delete_memory("s")
    database.execute(LOSE_LEASE)

    purge = start_purge(palaver)
    wait_until(lambda: count_sessions_and_messages(database) == (1, 2))
    database.execute("DROP TRIGGER lose_lease ON messages")
    end_purge_lease(database)

    assert list(purge)[-1] == progress(sessions=1, messages=3)
