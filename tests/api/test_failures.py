"""What goes wrong in the service: bugs, a database that is busy or away, too large a request."""

import uuid
from collections.abc import Callable
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo, RetryInfo

from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    StreamMessagesRequest,
    StreamMessagesResponse,
)
from palaver.v1.session_service_pb2 import DeleteSessionRequest, GetSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until

BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


def get_memory(palaver: Client, session_id: str) -> Memory:
    return palaver.memory.GetMemory(GetMemoryRequest(session_id=session_id))


def stream_messages(palaver: Client, session_id: str) -> list[StreamMessagesResponse]:
    return list(palaver.memory.StreamMessages(StreamMessagesRequest(session_id=session_id)))


@pytest.mark.parametrize(
    ("sabotage", "call"),
    [
        ("DROP TABLE messages", get_memory),
        ("DROP TABLE messages", stream_messages),
        (
            "ALTER TABLE messages ADD CONSTRAINT rule CHECK (content <> 'the content') NOT VALID",
            lambda palaver, _: palaver.add("s", "the content"),
        ),
    ],
    ids=["call", "stream", "driver that quotes the content"],
)
def test_a_bug_is_internal_with_an_incident_id_that_the_log_has_and_no_internals(
    palaver: Client,
    database: psycopg.Connection[tuple[Any, ...]],
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
    assert "server/store" in caplog.text  # where it happened
    assert "the content" not in caplog.text
    for internal in ("the content", "relation", "constraint", "psycopg", "messages", "server/"):
        assert internal not in str(refusal.status).replace(incident_id, "")


def test_no_database_connection_in_time_is_resource_exhausted_and_writes_nothing(
    start_server: StartServer,
    database_url: str,
    database: psycopg.Connection[tuple[Any, ...]],
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
        get_memory(palaver, "other")


def test_a_database_that_is_away_is_unavailable(
    start_server: StartServer, postgres: str, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    palaver = start_server(pool_timeout_seconds=0.2)
    palaver.add("s", "hello")
    name = database.info.dbname
    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
        )

    for call in (get_memory, stream_messages):
        with refused(grpc.StatusCode.UNAVAILABLE) as refusal:
            call(palaver, "s")

        assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0


def request_of(size: int) -> AddMemoryRequest:
    """A request of so many bytes."""
    mib = 1024 * 1024
    messages = [Message(role="user", content="x" * mib) for _ in range(size // mib - 1)]
    request = AddMemoryRequest(session_id="s", messages=[*messages, Message(role="user")])
    padding = size - request.ByteSize()
    request.messages[-1].content = "x" * (padding - 8)
    request.messages[-1].content += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


def test_a_request_of_16_mib_is_accepted_and_a_larger_one_refused(palaver: Client) -> None:
    most = 16 * 1024 * 1024

    added = palaver.memory.AddMemory(request_of(most))
    with pytest.raises(grpc.RpcError) as raised:
        palaver.memory.AddMemory(request_of(most + 1))

    assert len(added.messages) == 16
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    session = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    assert session.last_sequence == 16
