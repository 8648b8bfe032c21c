"""MemoryService.DeleteMessages: by ids, or the newest ones."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.client import Client, refused, struct

MIB = 1024 * 1024


@pytest.fixture
def message(palaver: Client) -> Message:
    """The message `m` between two others, as the session `s` has it."""
    given = Message(
        message_id="m",
        role="user",
        content="hello",
        token_count=5,
        metadata=struct(a=1, deep={"x": 1, "y": 2}),
    )
    add(palaver, Message(message_id="before", role="user"), given)
    add(palaver, Message(message_id="after", role="user"))
    return get(palaver, "m")


def add(palaver: Client, *messages: Message) -> None:
    palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))


def get(palaver: Client, message_id: str) -> Message:
    return palaver.memory.GetMessage(GetMessageRequest(session_id="s", message_id=message_id))


def get_session(palaver: Client) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id="s"))


def delete(palaver: Client, **fields: Any) -> list[Message]:
    response = palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", **fields))
    return list(response.messages)


def remaining(palaver: Client) -> list[str]:
    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id="s", last_n=1000))
    return [message.message_id for message in memory.messages]


def test_messages_are_deleted_by_their_ids_and_returned_oldest_first(
    palaver: Client, message: Message
) -> None:
    before = get(palaver, "before")

    deleted = delete(palaver, message_ids=["m", "unknown", "before", "m"])

    assert deleted == [before, message]
    assert remaining(palaver) == ["after"]
    with refused(grpc.StatusCode.NOT_FOUND):
        get(palaver, "m")
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.memory.UpdateMessage(
            UpdateMessageRequest(session_id="s", message_id="m", content="changed")
        )


def test_the_newest_messages_are_deleted_and_returned_oldest_first(
    palaver: Client, message: Message
) -> None:
    after = get(palaver, "after")

    deleted = delete(palaver, last_n=2)

    assert deleted == [message, after]
    assert remaining(palaver) == ["before"]


def test_pops_take_one_message_after_the_other(palaver: Client, message: Message) -> None:
    popped = [delete(palaver, last_n=1) for _ in range(4)]

    ids = [[message.message_id for message in messages] for messages in popped]
    assert ids == [["after"], ["m"], ["before"], []]


def test_of_concurrent_pops_each_gets_another_message(palaver: Client) -> None:
    palaver.add("s", *(str(number) for number in range(10)))

    calls = [
        palaver.memory.DeleteMessages.future(DeleteMessagesRequest(session_id="s", last_n=1))
        for _ in range(12)
    ]

    popped = [message.content for call in calls for message in call.result().messages]
    assert sorted(popped) == [str(number) for number in range(10)]


def test_deleting_what_is_not_there_deletes_nothing(palaver: Client, message: Message) -> None:
    delete(palaver, message_ids=["after"])
    before = get_session(palaver)

    assert delete(palaver, message_ids=["after", "unknown"]) == []
    assert get_session(palaver) == before


def test_more_may_be_asked_to_be_deleted_than_there_is(palaver: Client, message: Message) -> None:
    deleted = delete(palaver, last_n=1000)

    assert len(deleted) == 3
    assert remaining(palaver) == []


def test_deleted_sequences_are_not_used_again(palaver: Client, message: Message) -> None:
    delete(palaver, last_n=3)

    added = palaver.add("s", "new")

    assert added.messages[0].sequence == 4
    assert get_session(palaver).last_sequence == 4


@pytest.mark.parametrize(
    ("fields", "path"),
    [({"message_ids": ["m"], "last_n": 1}, "last_n"), ({}, "last_n")],
    ids=["both", "none"],
)
def test_either_ids_or_a_number_must_be_given(
    palaver: Client, message: Message, fields: dict[str, Any], path: str
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        delete(palaver, **fields)

    assert path in {violation.field for violation in refusal.detail(BadRequest).field_violations}
    assert remaining(palaver) == ["before", "m", "after"]


@pytest.mark.parametrize("by_ids", [False, True])
def test_more_messages_than_a_response_holds_are_refused_and_none_deleted(
    palaver: Client, *, by_ids: bool
) -> None:
    ids = ["a", "b", "c", "d"]
    for message_id in ids:
        add(palaver, Message(message_id=message_id, role="user", content="x" * MIB))
    before = get_session(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        delete(palaver, **({"message_ids": ids} if by_ids else {"last_n": 4}))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == ("message_ids" if by_ids else "last_n")
    assert get_session(palaver) == before
    assert len(delete(palaver, last_n=3)) == 3


@pytest.mark.parametrize("metadata", ["text", "numbers"])
def test_messages_that_a_response_holds_are_deleted_whatever_metadata_they_have(
    palaver: Client, metadata: str
) -> None:
    # In each case about 2 MiB as protobuf.
    value = struct(a="x" * 60_000) if metadata == "text" else struct(a=[1e308] * 5000)
    messages = [Message(role="user", metadata=value) for _ in range(35)]
    add(palaver, *messages)

    deleted = delete(palaver, last_n=35)

    assert len(deleted) == 35
