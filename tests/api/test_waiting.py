"""Calls that wait for another transaction: what it does to times, readers and connections."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import psycopg
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    ListMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, struct, wait_until
from tests.support.concurrency import (
    PATIENCE,
    Connection,
    Gate,
    begin,
    count_blocked,
    wait_until_blocked,
)

LOCK = "SELECT FROM sessions WHERE session_id = 's' FOR UPDATE"


@pytest.fixture
def rival(palaver: Client, database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends; a session with one message is there."""
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=[message("a", "first")]))
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def message(message_id: str, content: str) -> Message:
    return Message(message_id=message_id, role="user", content=content)


def get_session(client: Client) -> Session:
    return client.sessions.GetSession(GetSessionRequest(session_id="s"), timeout=PATIENCE)


def clock(connection: Connection) -> datetime:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    return row[0]  # type: ignore[no-any-return]


def test_a_delete_that_waited_comes_after_what_it_waited_for(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(LOCK)
    request = DeleteSessionRequest(session_id="s")
    call = begin(lambda: palaver.sessions.DeleteSession(request, timeout=PATIENCE))
    wait_until_blocked(database)
    still_waiting_at = clock(database)

    rival.rollback()

    assert call.result(PATIENCE).deleted_at.ToDatetime(tzinfo=UTC) >= still_waiting_at


UPDATE_SESSION = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
UPDATE_MESSAGE = UpdateMessageRequest(session_id="s", message_id="a", content="changed")
POP = DeleteMessagesRequest(session_id="s", last_n=1)
UPSERT = AddMemoryRequest(session_id="s", messages=[message("a", "changed")])
ADD = AddMemoryRequest(session_id="s", messages=[message("", "another")])

WRITERS: dict[str, Callable[[Client], object]] = {
    "AddMemory without ids": lambda client: client.memory.AddMemory(ADD),
    "AddMemory with ids": lambda client: client.memory.AddMemory(UPSERT),
    "UpdateSession": lambda client: client.sessions.UpdateSession(UPDATE_SESSION),
    "UpdateMessage": lambda client: client.memory.UpdateMessage(UPDATE_MESSAGE),
    "DeleteMessages": lambda client: client.memory.DeleteMessages(POP),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_the_time_of_the_last_change_does_not_go_back_behind_what_a_call_waited_for(
    palaver: Client, rival: Connection, database: Connection, writer: str
) -> None:
    rival.execute(LOCK)
    call = begin(lambda: WRITERS[writer](palaver))
    wait_until_blocked(database)
    changed_at = clock(rival)
    rival.execute("UPDATE sessions SET updated_at = %s", [changed_at])

    rival.commit()

    call.result(PATIENCE)
    assert get_session(palaver).updated_at.ToDatetime(tzinfo=UTC) >= changed_at


def test_the_time_of_the_last_change_does_not_go_back_when_a_call_overtakes_another(
    palaver: Client, rival: Connection, database_url: str
) -> None:
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        slow = begin(lambda: palaver.memory.AddMemory(ADD, timeout=PATIENCE))
        gate.wait_until_reached()
        quick = palaver.sessions.UpdateSession(UPDATE_SESSION)

        gate.open()

        slow.result(PATIENCE)
    updated_at = get_session(palaver).updated_at
    assert updated_at.ToNanoseconds() >= quick.updated_at.ToNanoseconds()


def test_a_session_that_starts_anew_is_created_after_it_was_deleted(
    palaver: Client, rival: Connection, database_url: str
) -> None:
    anew = AddSessionRequest(session_id="s")
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        addition = begin(lambda: palaver.sessions.AddSession(anew, timeout=PATIENCE))
        gate.wait_until_reached()
        deletion = palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

        gate.open()

        session = addition.result(PATIENCE)
    assert session.created_at.ToNanoseconds() >= deletion.deleted_at.ToNanoseconds()
    assert session.updated_at == session.created_at


def test_neither_readers_nor_other_sessions_wait_for_a_writer(
    palaver: Client, rival: Connection
) -> None:
    rival.execute("UPDATE sessions SET last_sequence = 2")
    rival.execute("UPDATE messages SET content = 'not yet'")

    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id="s"), timeout=PATIENCE)
    page = palaver.memory.ListMessages(ListMessagesRequest(session_id="s"), timeout=PATIENCE)
    assert [m.content for m in memory.messages] == ["first"]
    assert page.messages == memory.messages
    palaver.add("another", "message")


@pytest.mark.parametrize("message_id", ["", "b"], ids=["without ids", "with ids"])
def test_a_call_that_is_cancelled_while_it_waits_writes_nothing_and_frees_its_connection(
    start_server: StartServer, rival: Connection, database: Connection, message_id: str
) -> None:
    client = start_server(pool_max_size=1)
    request = AddMemoryRequest(session_id="s", messages=[message(message_id, "never")])
    rival.execute(LOCK)
    call = client.memory.AddMemory.future(request)
    wait_until_blocked(database)

    call.cancel()

    wait_until(lambda: count_blocked(database) == 0)
    before = get_session(client)  # over the only connection, while the row is still locked
    rival.rollback()
    assert get_session(client) == before
    assert client.add("s", "next").messages[0].sequence == 2
