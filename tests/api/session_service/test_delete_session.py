"""SessionService.DeleteSession: the session and its messages are deleted at one time."""

from datetime import UTC
from functools import partial

import grpc
import pytest

from palaver.v1.memory_service_pb2 import AddMemoryRequest, DeleteMemoryRequest
from palaver.v1.session_service_pb2 import DeleteSessionRequest
from tests.support.client import Client, refused
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    Gate,
    at_once,
    begin,
    wait_until_blocked,
)
from tests.support.rival import ADD_MESSAGE, LOCK_SESSION, clock
from tests.support.rows import count_rows

# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("abc")
def test_delete_session_deletes_messages_at_returned_time(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    deleted_at = palaver.delete_session("s").deleted_at.ToDatetime(tzinfo=UTC)

    instants = database.execute(
        "SELECT deleted_at FROM sessions UNION ALL SELECT deleted_at FROM messages"
    ).fetchall()
    assert instants == [(deleted_at,)] * 4


def test_delete_session_returns_time_and_count_of_messages(palaver: Client) -> None:
    palaver.add("s", "one", "two", "three")
    palaver.delete_messages("s", last_n=1)
    before = palaver.get_session("s").updated_at

    deleted = palaver.delete_session("s")

    assert deleted.messages_deleted == 2
    assert deleted.deleted_at.ToNanoseconds() >= before.ToNanoseconds()


def test_delete_session_deletes_session_and_messages_at_one_time(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "one", "two")

    deleted = palaver.delete_session("s")

    instants = database.execute(
        "SELECT deleted_at FROM sessions UNION ALL SELECT deleted_at FROM messages"
    ).fetchall()
    assert len(instants) == 3
    assert {instant.timestamp() for (instant,) in instants} == {
        deleted.deleted_at.ToMicroseconds() / 1_000_000
    }


def test_delete_session_keeps_other_sessions(palaver: Client) -> None:
    palaver.add("s", "one")
    palaver.add("other", "two")
    before = palaver.get_session("other")

    palaver.delete_session("s")

    assert palaver.get_session("other") == before
    memory = palaver.get_memory("other")
    assert [message.content for message in memory.messages] == ["two"]


def test_delete_session_second_call_is_not_found(palaver: Client) -> None:
    palaver.add("s", "one")
    palaver.delete_session("s")

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.delete_session("s")


# --- Concurrency -------------------------------------------------------------------------------


def test_delete_session_simultaneous_calls_succeed_once(callers: list[Client]) -> None:
    callers[0].add("s", "one", "two", "three")

    def delete(number: int) -> int:
        if number % 2:
            by_service = DeleteSessionRequest(session_id="s")
            return callers[number].sessions.DeleteSession(by_service).messages_deleted
        by_memory = DeleteMemoryRequest(session_id="s")
        return callers[number].memory.DeleteMemory(by_memory).messages_deleted

    outcomes = at_once([partial(delete, number) for number in range(len(callers))])

    assert outcomes.results == [3]
    assert outcomes.refusals == {grpc.StatusCode.NOT_FOUND: len(callers) - 1}


def test_delete_session_after_lock_wait_deleted_at_is_later(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    palaver.add("s", "first")
    rival.execute(LOCK_SESSION)
    request = DeleteSessionRequest(session_id="s")
    call = begin(lambda: palaver.sessions.DeleteSession(request, timeout=MAX_WAIT_SECONDS))
    wait_until_blocked(database)
    still_waiting_at = clock(database)

    rival.rollback()

    assert call.result(MAX_WAIT_SECONDS).deleted_at.ToDatetime(tzinfo=UTC) >= still_waiting_at


@pytest.mark.usefixtures("abc")
def test_delete_session_takes_messages_added_during_lock_wait(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(ADD_MESSAGE, ["d"])
    call = begin(lambda: palaver.delete_session("s"))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(MAX_WAIT_SECONDS).messages_deleted == 4
    assert count_rows(database, "messages WHERE deleted_at IS NULL") == 0


@pytest.mark.usefixtures("abc")
@pytest.mark.parametrize("message_id", ["", "d"], ids=["without ids", "with ids"])
def test_delete_session_waits_for_running_add_memory(
    palaver: Client, rival: Connection, database: Connection, database_url: str, message_id: str
) -> None:
    request = AddMemoryRequest(session_id="s")
    request.messages.add(role="user", content="d", message_id=message_id)
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: palaver.memory.AddMemory(request, timeout=MAX_WAIT_SECONDS))
        gate.wait_until_reached()
        deletion = begin(lambda: palaver.delete_session("s"))
        wait_until_blocked(database, 2)

        gate.open()

        assert addition.result(MAX_WAIT_SECONDS).messages[0].sequence == 4
        assert deletion.result(MAX_WAIT_SECONDS).messages_deleted == 4
    assert count_rows(database, "messages WHERE deleted_at IS NULL") == 0
