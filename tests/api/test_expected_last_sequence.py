"""MemoryService.AddMemory with expected_last_sequence: added to what the caller knows, or not."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
)
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.client import Client, refused


@pytest.mark.parametrize("session", ["new", "live", "deleted"])
def test_memory_is_added_if_the_last_sequence_is_the_expected_one(
    palaver: Client, session: str
) -> None:
    last_sequence = prepare(palaver, session)

    added = palaver.add("s", "new", expected_last_sequence=last_sequence)

    assert added.messages[0].sequence == last_sequence + 1
    assert added.session_created == (session == "new")
    assert added.session_undeleted == (session == "deleted")


@pytest.mark.parametrize("message_id", ["", "m", "known"])
@pytest.mark.parametrize("session", ["new", "live", "deleted"])
def test_nothing_is_written_if_the_last_sequence_is_not_the_expected_one(
    palaver: Client, session: str, message_id: str
) -> None:
    last_sequence = prepare(palaver, session)
    before = state(palaver)

    for wrong in {0, 1, 3, 2**63 - 1} - {last_sequence}:
        with refused(grpc.StatusCode.ABORTED) as refusal:
            palaver.memory.AddMemory(
                AddMemoryRequest(
                    session_id="s",
                    messages=[Message(role="user", message_id=message_id)],
                    expected_last_sequence=wrong,
                )
            )

        info = refusal.detail(ErrorInfo)
        assert info.metadata["last_sequence"] == str(last_sequence)
        assert info.reason
        assert info.domain
        assert state(palaver) == before
    assert palaver.add("s", "right").messages[0].sequence == last_sequence + 1


def test_the_expected_last_sequence_counts_deleted_messages(palaver: Client) -> None:
    palaver.add("s", "a", "b")
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", last_n=2))

    added = palaver.add("s", "c", expected_last_sequence=2)

    assert added.messages[0].sequence == 3


def prepare(palaver: Client, session: str) -> int:
    """Brings about a session that is new, live or deleted, and gives its last sequence."""
    if session == "new":
        return 0
    messages = [Message(role="user", message_id="known"), Message(role="user")]
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))
    if session == "deleted":
        palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))
    return 2


def state(palaver: Client) -> Any:
    """All that can be seen of the session, or None if it is not there."""
    try:
        return (
            palaver.sessions.GetSession(GetSessionRequest(session_id="s")),
            palaver.memory.GetMemory(GetMemoryRequest(session_id="s")),
        )
    except grpc.RpcError:
        return None
