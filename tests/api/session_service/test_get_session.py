"""SessionService.GetSession: a live session and the time of its last change."""

import grpc
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import UpdateSessionRequest
from tests.support.client import Client, refused, struct

# --- Contract ----------------------------------------------------------------------------------


def test_get_session_deleted_session_is_not_found(palaver: Client) -> None:
    palaver.add_session("s")
    palaver.delete_session("s")

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        palaver.get_session("s")

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Session", "s")


def test_get_session_updated_at_is_time_of_last_change(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    message = Message(message_id="m", role="user", content="one")
    palaver.add_memory("s", [message])
    message.content = "upserted"

    for change in (
        UpdateSessionRequest(session_id="s", metadata=struct(a=1)),
        AddMemoryRequest(session_id="s", messages=[Message(role="user", content="two")]),
        AddMemoryRequest(session_id="s", messages=[message]),
        UpdateMessageRequest(session_id="s", message_id="m", content="updated"),
        DeleteMessagesRequest(session_id="s", message_ids=["m"]),
    ):
        with subtests.test(type(change).__name__):
            before = palaver.get_session("s")

            palaver.send(change)

            after = palaver.get_session("s")
            assert after.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
            assert (after.created_at, after.id) == (before.created_at, before.id)
