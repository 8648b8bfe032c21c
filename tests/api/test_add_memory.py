"""MemoryService.AddMemory: sessions that it creates and brings back, order, ids and times."""

import uuid
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMemoryRequest,
    GetMemoryRequest,
    GetMessageRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
)
from tests.support.client import Client, refused, struct


def get_session(palaver: Client) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id="s"))


def get_messages(palaver: Client) -> list[Message]:
    return list(palaver.memory.GetMemory(GetMemoryRequest(session_id="s")).messages)


def add(palaver: Client, *messages: Message, **fields: Any) -> AddMemoryResponse:
    return palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages, **fields))


def moment(*, nanos: int = 0) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime(2001, 2, 3, 4, 5, 6, tzinfo=UTC))
    moment.nanos = nanos
    return moment


def test_memory_creates_its_session(palaver: Client) -> None:
    added = palaver.add("s", "hello", user_id="u")

    session = get_session(palaver)
    assert (added.session_created, added.session_undeleted) == (True, False)
    assert (session.user_id, session.metadata, session.last_sequence) == ("u", struct(), 1)
    assert session.created_at == session.updated_at == added.messages[0].created_at


def test_a_session_that_memory_creates_need_have_no_user(palaver: Client) -> None:
    palaver.add("s", "hello", user_id="")

    assert get_session(palaver).user_id == ""


@pytest.mark.parametrize("message_id", ["", "m"])
def test_the_user_counts_only_at_creation(palaver: Client, message_id: str) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="u"))

    added = add(palaver, Message(role="user", message_id=message_id), user_id="other")

    assert (added.session_created, added.session_undeleted) == (False, False)
    assert get_session(palaver).user_id == "u"


@pytest.mark.parametrize("message_id", ["", "m"])
def test_memory_brings_a_deleted_session_back(palaver: Client, message_id: str) -> None:
    before = palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="u", metadata=struct(plan="pro"))
    )
    palaver.sessions.AddSession(AddSessionRequest(session_id="later"))
    palaver.add("s", "old", "older")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    added = add(palaver, Message(role="user", message_id=message_id), user_id="other")

    after = get_session(palaver)
    assert (added.session_created, added.session_undeleted) == (False, True)
    assert (after.user_id, after.metadata) == ("u", struct(plan="pro"))
    assert (after.id, after.created_at) == (before.id, before.created_at)
    assert after.last_sequence == added.messages[0].sequence == 3
    listed = palaver.sessions.ListSessions(ListSessionsRequest())
    assert [session.session_id for session in listed.sessions] == ["s", "later"]


def test_the_old_messages_of_a_session_brought_back_stay_deleted(palaver: Client) -> None:
    old = palaver.add("s", "one", "two")
    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))

    palaver.add("s", "three")

    assert [message.content for message in get_messages(palaver)] == ["three"]
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.memory.GetMessage(
            GetMessageRequest(session_id="s", message_id=old.messages[0].message_id)
        )


def test_messages_are_appended_in_order_with_contiguous_sequences(palaver: Client) -> None:
    first = palaver.add("s", "a", "b", "c")
    second = palaver.add("s", "d", "e")

    assert [message.sequence for message in first.messages] == [1, 2, 3]
    assert [message.sequence for message in second.messages] == [4, 5]
    assert [(m.sequence, m.content) for m in get_messages(palaver)] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
        (4, "d"),
        (5, "e"),
    ]
    assert get_session(palaver).last_sequence == 5


def test_the_sequences_of_sessions_are_independent(palaver: Client) -> None:
    palaver.add("other", "a", "b")

    added = palaver.add("s", "c")

    assert added.messages[0].sequence == 1


def test_an_added_message_is_got_as_it_was_added(palaver: Client) -> None:
    message = Message(
        message_id="m",
        role="assistant",
        content="hello",
        metadata=struct(model="x", usage={"in": 3}),
        token_count=7,
        created_at=moment(nanos=123_456_000),
    )

    added = add(palaver, message)

    (got,) = get_messages(palaver)
    assert (added.messages[0].message_id, added.messages[0].sequence) == ("m", 1)
    assert added.messages[0].created_at == got.created_at == message.created_at
    assert (got.message_id, got.role, got.content) == ("m", "assistant", "hello")
    assert (got.metadata, got.token_count) == (message.metadata, 7)
    assert got.updated_at == get_session(palaver).updated_at


def test_the_output_only_fields_of_a_message_are_ignored(palaver: Client) -> None:
    added = add(palaver, Message(role="user", sequence=-40, updated_at=Timestamp(nanos=-1)))

    (got,) = get_messages(palaver)
    assert added.messages[0].sequence == got.sequence == 1
    assert got.updated_at == got.created_at


def test_the_server_gives_uuids_of_version_7(palaver: Client) -> None:
    added = palaver.add("s", "a", "b", "c")

    ids = [uuid.UUID(message.message_id) for message in added.messages]
    assert [(i.version, i.variant) for i in ids] == [(7, uuid.RFC_4122)] * 3
    assert len(set(ids)) == 3
    assert [m.message_id for m in get_messages(palaver)] == [str(i) for i in ids]


def test_a_time_is_kept_to_the_microsecond_rounded_down(palaver: Client) -> None:
    before_1970 = Timestamp(seconds=-1, nanos=999_999_999)

    added = add(
        palaver,
        Message(role="user", created_at=moment(nanos=999_999_999)),
        Message(role="user", created_at=before_1970),
    )

    assert added.messages[0].created_at == moment(nanos=999_999_000)
    assert added.messages[1].created_at == Timestamp(seconds=-1, nanos=999_999_000)
    assert [m.created_at for m in get_messages(palaver)] == [m.created_at for m in added.messages]


def test_the_callers_time_does_not_change_the_order(palaver: Client) -> None:
    palaver.add("s", "new")

    add(palaver, Message(role="user", content="old", created_at=moment()))

    assert [message.content for message in get_messages(palaver)] == ["new", "old"]
