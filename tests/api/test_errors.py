"""Errors: missing resources, violations named by field, bugs, and an exhausted pool."""

import uuid
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo, RetryInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import (
    DeleteSessionRequest,
    GetSessionRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import AddUserRequest, UpdateUserRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct, violations, wait_until
from tests.support.concurrency import Connection

# Every RPC that requires a session that exists.
ABOUT_SESSION: list[tuple[Any, dict[str, Any]]] = [
    (UpdateSessionRequest, {"metadata": struct(a=1)}),
    (GetSessionRequest, {}),
    (DeleteSessionRequest, {}),
    (GetMemoryRequest, {}),
    (DeleteMemoryRequest, {}),
    (ListMessagesRequest, {}),
    (StreamMessagesRequest, {}),
    (GetMessageRequest, {"message_id": "m"}),
    (UpdateMessageRequest, {"message_id": "m", "content": "new"}),
    (DeleteMessagesRequest, {"message_ids": ["m"]}),
    (DeleteMessagesRequest, {"last_n": 1}),
]


@pytest.mark.parametrize("session_id", ["missing", "deleted"])
def test_error_missing_or_deleted_session_is_not_found(
    palaver: Client, session_id: str, subtests: pytest.Subtests
) -> None:
    message = Message(message_id="m", role="user")
    palaver.add_memory("deleted", [message])
    palaver.delete_memory("deleted")

    for request_type, fields in ABOUT_SESSION:
        with subtests.test(request_type.__name__, **fields):
            with refused(grpc.StatusCode.NOT_FOUND) as refusal:
                palaver.send(request_type(session_id=session_id, **fields))

            info = refusal.detail(ResourceInfo)
            assert info.resource_type == "palaver.v1.Session"
            assert info.resource_name == session_id


@pytest.mark.parametrize("message_id", ["missing", "deleted"])
@pytest.mark.parametrize("request_type", [GetMessageRequest, UpdateMessageRequest])
def test_error_missing_or_deleted_message_is_not_found(
    palaver: Client, request_type: Any, message_id: str
) -> None:
    palaver.add_memory("s", [Message(message_id="deleted", role="user")])
    palaver.delete_messages("s", last_n=1)

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        palaver.send(request_type(session_id="s", message_id=message_id))

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Message", message_id)


@pytest.mark.parametrize("request_type", [AddUserRequest, UpdateUserRequest])
def test_error_all_invalid_fields_of_user_are_named_together(
    palaver: Client, request_type: Any
) -> None:
    request = request_type(
        user_id="",
        email="x" * 321,
        first_name="x" * 257,
        last_name="\0",
        metadata=struct(a=float("nan")),
    )

    fields = violations(lambda: palaver.send(request))

    assert fields == ["user_id", "email", "first_name", "last_name", "metadata"]


def test_error_longest_ids_are_named_in_details(palaver: Client, subtests: pytest.Subtests) -> None:
    for name in ("x" * 1024, "😀" * 256, "\x01" * 1024, "\U000e0001" * 256):
        with subtests.test(name=name[:1]):
            palaver.add_session(name)

            with refused(grpc.StatusCode.ALREADY_EXISTS) as exists:
                palaver.add_session(name)
            with refused(grpc.StatusCode.NOT_FOUND) as missing:
                palaver.get_message(name, name)

            assert exists.detail(ResourceInfo).resource_name == name
            assert missing.detail(ResourceInfo).resource_name == name


@pytest.mark.parametrize(
    ("sabotage", "call"),
    [
        ("ALTER TABLE messages RENAME role TO renamed", Client.get_memory),
        ("ALTER TABLE messages RENAME role TO renamed", Client.stream_messages),
        (
            "ALTER TABLE messages ADD CONSTRAINT rule CHECK (content <> 'the content') NOT VALID",
            lambda palaver, _: palaver.add("s", "the content"),
        ),
    ],
    ids=["call", "stream", "driver that quotes the content"],
)
def test_error_bug_is_internal_with_logged_incident_id_only(
    palaver: Client,
    database: Connection,
    caplog: pytest.LogCaptureFixture,
    *,
    sabotage: str,
    call: Callable[[Client, str], object],
) -> None:
    palaver.add("s", "hello")
    database.execute(sabotage)

    with refused(grpc.StatusCode.INTERNAL) as refusal:
        call(palaver, "s")

    info = refusal.detail(ErrorInfo)
    incident_id = info.metadata["incident_id"]
    assert uuid.UUID(incident_id)
    assert incident_id in refusal.status.message
    assert incident_id in caplog.text
    assert "server/store" in caplog.text  # the traceback
    assert "the content" not in caplog.text
    for internal in ("the content", "relation", "constraint", "psycopg", "messages", "server/"):
        assert internal not in str(refusal.status).replace(incident_id, "")


BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def test_error_no_connection_in_time_is_resource_exhausted(
    start_server: StartServer,
    database_url: str,
    database: Connection,
) -> None:
    palaver = start_server(pool_max_size=1, pool_timeout_seconds=0.2)
    palaver.add("s", "hello")

    with psycopg.connect(database_url) as locker:
        locker.execute("SELECT FROM sessions WHERE session_id = 's' FOR UPDATE")
        waiting = palaver.sessions.DeleteSession.future(DeleteSessionRequest(session_id="s"))
        wait_until(lambda: database.execute(BLOCKED).fetchone() == (1,))
        with refused(grpc.StatusCode.RESOURCE_EXHAUSTED) as refusal:
            palaver.add("other", "hello")

    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
    assert waiting.result().messages_deleted == 1
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_memory("other")
