"""Updates and deletes that wait for another transaction, and then see what it committed."""

from collections.abc import Iterator
from datetime import UTC
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import (
    DeleteSessionRequest,
    DeleteSessionResponse,
    GetSessionRequest,
    UpdateSessionRequest,
)
from tests.support.client import Client, refused, struct
from tests.support.concurrency import PATIENCE, Connection, Gate, begin, wait_until_blocked

LOCK = "SELECT FROM sessions WHERE session_id = 's' FOR UPDATE"
DELETE_SESSION = "UPDATE sessions SET deleted_at = now() WHERE session_id = 's'"
DELETE_MESSAGES = "UPDATE messages SET deleted_at = now() WHERE session_id = 's'"
ADD_ROW = """
    WITH session AS (
        UPDATE sessions SET last_sequence = last_sequence + 1 WHERE session_id = 's'
        RETURNING last_sequence
    )
    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT 's', last_sequence, %s, 'user', 'by the rival' FROM session
"""


@pytest.fixture
def rival(palaver: Client, database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends; messages a, b and c are there."""
    messages = [
        Message(message_id=name, role="user", content=name, metadata=struct(mine=1))
        for name in "abc"
    ]
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def delete_session(client: Client) -> DeleteSessionResponse:
    return client.sessions.DeleteSession(DeleteSessionRequest(session_id="s"), timeout=PATIENCE)


def delete_messages(client: Client, *message_ids: str, last_n: int = 0) -> list[str]:
    request = DeleteMessagesRequest(session_id="s", message_ids=message_ids, last_n=last_n)
    deleted = client.memory.DeleteMessages(request, timeout=PATIENCE)
    return [f"{message.message_id}{message.sequence}" for message in deleted.messages]


def update_message(client: Client, **metadata: Any) -> Message:
    request = UpdateMessageRequest(session_id="s", message_id="c", metadata=struct(**metadata))
    return client.memory.UpdateMessage(request, timeout=PATIENCE)


def live_rows(database: Connection) -> int:
    row = database.execute("SELECT count(*) FROM messages WHERE deleted_at IS NULL").fetchone()
    return int(row[0]) if row else 0


def test_a_delete_takes_what_was_added_while_it_waited(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(ADD_ROW, ["d"])
    call = begin(lambda: delete_session(palaver))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(PATIENCE).messages_deleted == 4
    assert live_rows(database) == 0


@pytest.mark.parametrize("message_id", ["", "d"], ids=["without ids", "with ids"])
def test_a_delete_waits_for_a_call_that_is_adding(
    palaver: Client, rival: Connection, database: Connection, database_url: str, message_id: str
) -> None:
    request = AddMemoryRequest(session_id="s")
    request.messages.add(role="user", content="d", message_id=message_id)
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: palaver.memory.AddMemory(request, timeout=PATIENCE))
        gate.wait_until_reached()
        deletion = begin(lambda: delete_session(palaver))
        wait_until_blocked(database, 2)

        gate.open()

        assert addition.result(PATIENCE).messages[0].sequence == 4
        assert deletion.result(PATIENCE).messages_deleted == 4
    assert live_rows(database) == 0


def test_all_messages_of_a_session_are_deleted_at_the_instant_that_is_returned(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    deleted_at = delete_session(palaver).deleted_at.ToDatetime(tzinfo=UTC)

    instants = database.execute(
        "SELECT deleted_at FROM sessions UNION ALL SELECT deleted_at FROM messages"
    ).fetchall()
    assert instants == [(deleted_at,)] * 4


def test_a_pop_takes_the_newest_message_that_there_is_when_its_turn_comes(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(ADD_ROW, ["d"])
    call = begin(lambda: delete_messages(palaver, last_n=1))
    wait_until_blocked(database)
    rival.commit()
    assert call.result(PATIENCE) == ["d4"]

    rival.execute(LOCK)
    rival.execute(DELETE_MESSAGES + " AND message_id = 'c'")
    call = begin(lambda: delete_messages(palaver, last_n=1))
    wait_until_blocked(database)
    rival.commit()
    assert call.result(PATIENCE) == ["b2"]


def test_a_delete_by_id_takes_the_message_that_has_the_id_when_its_turn_comes(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(LOCK)
    rival.execute("DELETE FROM messages WHERE message_id IN ('a', 'b')")
    rival.execute(ADD_ROW, ["a"])
    call = begin(lambda: delete_messages(palaver, "a", "b", "c"))
    wait_until_blocked(database)

    rival.commit()

    assert call.result(PATIENCE) == ["c3", "a4"]


@pytest.mark.parametrize(
    ("meanwhile", "missing"),
    [
        ([LOCK, DELETE_MESSAGES + " AND message_id = 'c'"], "palaver.v1.Message"),
        ([LOCK, "DELETE FROM messages WHERE message_id = 'c'"], "palaver.v1.Message"),
        ([DELETE_SESSION, DELETE_MESSAGES], "palaver.v1.Session"),
    ],
    ids=["message deleted", "message purged", "session deleted"],
)
def test_a_message_that_is_deleted_while_an_update_waits_stays_deleted(
    palaver: Client, rival: Connection, database: Connection, meanwhile: list[str], missing: str
) -> None:
    for statement in meanwhile:
        rival.execute(statement.encode())
    call = begin(lambda: update_message(palaver, mine=2))
    wait_until_blocked(database)

    rival.commit()

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        call.result(PATIENCE)
    assert refusal.detail(ResourceInfo).resource_type == missing
    assert live_rows(database) == (2 if missing == "palaver.v1.Message" else 0)


def test_an_update_merges_into_what_it_waited_for(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute("UPDATE sessions SET metadata = '{\"theirs\": 1}', user_id = 'their user'")
    rival.execute("UPDATE messages SET metadata = '{\"theirs\": 1}', content = 'theirs'")
    request = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
    session_call = begin(lambda: palaver.sessions.UpdateSession(request, timeout=PATIENCE))
    message_call = begin(lambda: update_message(palaver, mine=2))
    wait_until_blocked(database, 2)

    rival.commit()

    session, message = session_call.result(PATIENCE), message_call.result(PATIENCE)
    assert (session.metadata, session.user_id) == (struct(theirs=1, mine=2), "their user")
    assert (message.metadata, message.content) == (struct(theirs=1, mine=2), "theirs")


def test_a_session_that_is_deleted_while_an_update_waits_stays_deleted(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute(DELETE_SESSION.encode())
    request = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
    call = begin(lambda: palaver.sessions.UpdateSession(request, timeout=PATIENCE))
    wait_until_blocked(database)

    rival.commit()

    with refused(grpc.StatusCode.NOT_FOUND):
        call.result(PATIENCE)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
