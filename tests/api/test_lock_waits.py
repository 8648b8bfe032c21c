"""Writes that wait for another transaction: times do not go back, and reads do not wait."""

from collections.abc import Callable
from datetime import UTC

import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import UpdateSessionRequest
from tests.support.client import Client, struct
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, begin, wait_until_blocked
from tests.support.rival import LOCK_SESSION, clock


def user_message(message_id: str, content: str) -> Message:
    return Message(message_id=message_id, role="user", content=content)


UPDATE_SESSION = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
UPDATE_MESSAGE = UpdateMessageRequest(session_id="s", message_id="a", content="changed")
POP = DeleteMessagesRequest(session_id="s", last_n=1)
UPSERT = AddMemoryRequest(session_id="s", messages=[user_message("a", "changed")])
ADD = AddMemoryRequest(session_id="s", messages=[user_message("", "another")])

WRITERS: dict[str, Callable[[Client], object]] = {
    "AddMemory without ids": lambda client: client.memory.AddMemory(ADD),
    "AddMemory with ids": lambda client: client.memory.AddMemory(UPSERT),
    "UpdateSession": lambda client: client.sessions.UpdateSession(UPDATE_SESSION),
    "UpdateMessage": lambda client: client.memory.UpdateMessage(UPDATE_MESSAGE),
    "DeleteMessages": lambda client: client.memory.DeleteMessages(POP),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_lock_wait_of_writer_does_not_move_updated_at_back(
    palaver: Client, rival: Connection, database: Connection, writer: str
) -> None:
    palaver.add_memory("s", [user_message("a", "first")])
    rival.execute(LOCK_SESSION)
    call = begin(lambda: WRITERS[writer](palaver))
    wait_until_blocked(database)
    changed_at = clock(rival)
    rival.execute("UPDATE sessions SET updated_at = %s", [changed_at])

    rival.commit()

    call.result(MAX_WAIT_SECONDS)
    assert palaver.get_session("s").updated_at.ToDatetime(tzinfo=UTC) >= changed_at


def test_lock_wait_of_writer_does_not_block_reads_or_other_sessions(
    palaver: Client, rival: Connection
) -> None:
    palaver.add("s", "first")
    rival.execute("UPDATE sessions SET last_sequence = 2")
    rival.execute("UPDATE messages SET content = 'not yet'")

    memory = palaver.get_memory("s")
    page = palaver.list_messages("s")
    assert [m.content for m in memory.messages] == ["first"]
    assert page.messages == memory.messages
    palaver.add("another", "message")


@pytest.mark.usefixtures("abc")
def test_lock_wait_of_updates_merges_into_committed_metadata(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute("UPDATE sessions SET metadata = '{\"theirs\": 1}', user_id = 'their user'")
    rival.execute("UPDATE messages SET metadata = '{\"theirs\": 1}', content = 'theirs'")
    request = UpdateSessionRequest(session_id="s", metadata=struct(mine=2))
    session_call = begin(lambda: palaver.sessions.UpdateSession(request, timeout=MAX_WAIT_SECONDS))
    message_call = begin(lambda: palaver.update_message("s", "c", metadata=struct(mine=2)))
    wait_until_blocked(database, 2)

    rival.commit()

    session, message = session_call.result(MAX_WAIT_SECONDS), message_call.result(MAX_WAIT_SECONDS)
    assert (session.metadata, session.user_id) == (struct(theirs=1, mine=2), "their user")
    assert (message.metadata, message.content) == (struct(theirs=1, mine=2), "theirs")
