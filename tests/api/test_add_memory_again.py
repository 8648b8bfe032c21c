"""MemoryService.AddMemory with ids that the session has already, or had."""

from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.client import Client, refused, struct

OLD = Timestamp(seconds=1_000_000_000)
OLDER = Timestamp(seconds=900_000_000)


def add(palaver: Client, *messages: Message) -> AddMemoryResponse:
    return palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages))


def get_memory(palaver: Client, session_id: str = "s") -> Memory:
    return palaver.memory.GetMemory(GetMemoryRequest(session_id=session_id))


def state(palaver: Client, session_id: str = "s") -> tuple[Session, Memory]:
    """All that can be seen of the session and its messages, times included."""
    session = palaver.sessions.GetSession(GetSessionRequest(session_id=session_id))
    return session, get_memory(palaver, session_id)


def said(message_id: str, content: str = "hello", **fields: Any) -> Message:
    return Message(message_id=message_id, role="user", content=content, **fields)


def test_a_known_id_is_upserted_and_keeps_its_place_and_time(palaver: Client) -> None:
    add(palaver, said("a"), said("m", token_count=5, metadata=struct(x=1, y=2)), said("z"))
    before = get_memory(palaver).messages[1]

    added = add(
        palaver,
        Message(
            message_id="m",
            role="assistant",
            content="bye",
            token_count=6,
            metadata=struct(x=3),
            created_at=OLD,
        ),
    )

    after = get_memory(palaver).messages[1]
    assert (after.role, after.content, after.token_count) == ("assistant", "bye", 6)
    assert after.metadata == struct(x=3)  # replaced, not merged
    assert after.sequence == added.messages[0].sequence == 2
    assert after.created_at == added.messages[0].created_at == before.created_at
    assert after.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
    assert not added.session_created


def test_an_upsert_replaces_what_it_does_not_give_too(palaver: Client) -> None:
    add(palaver, said("m", token_count=5, metadata=struct(x=1)))

    add(palaver, Message(message_id="m", role="user"))

    (after,) = get_memory(palaver).messages
    assert (after.content, after.token_count, after.metadata) == ("", 0, struct())


def test_a_retry_with_ids_changes_nothing_and_takes_no_sequence(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    for session_id, messages in {
        "plain": [said("a"), said("b")],
        "with all fields": [
            said("a", created_at=OLD, metadata=struct(n=1.5, deep={"x": [None]}), token_count=3)
        ],
        "odd": [said("a", ""), said("b", "😀", metadata=struct(n=[1e308, 0.1]))],
    }.items():
        with subtests.test(session_id):
            request = AddMemoryRequest(session_id=session_id, messages=messages)
            first = palaver.memory.AddMemory(request)
            before = state(palaver, session_id)

            retry = palaver.memory.AddMemory(request)

            assert state(palaver, session_id) == before
            assert retry.messages == first.messages
            assert (retry.session_created, retry.session_undeleted) == (False, False)
            added = palaver.add(session_id, "next")
            assert added.messages[0].sequence == len(messages) + 1


def test_a_retry_writes_no_message(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    messages = [said("a"), said("b")]
    add(palaver, *messages)
    written = "SELECT message_id, ctid, xmin FROM messages ORDER BY sequence"
    before = database.execute(written).fetchall()

    add(palaver, *messages)

    assert database.execute(written).fetchall() == before


def test_a_retry_of_a_longer_request_adds_only_what_is_missing(palaver: Client) -> None:
    add(palaver, said("a"), said("b"))
    before = list(get_memory(palaver).messages)

    added = add(palaver, said("a"), said("b"), said("c"))

    assert [message.sequence for message in added.messages] == [1, 2, 3]
    assert list(get_memory(palaver).messages)[:2] == before


def test_known_and_new_ids_may_be_mixed(palaver: Client) -> None:
    add(palaver, said("a"), said("b"))

    added = add(palaver, said("x"), said("b", "changed"), said(""), said("a"), said("y"))

    given = added.messages[2].message_id
    messages = get_memory(palaver).messages
    assert [message.message_id for message in added.messages] == ["x", "b", given, "a", "y"]
    assert [message.sequence for message in added.messages] == [3, 2, 4, 1, 5]
    assert [message.message_id for message in messages] == ["a", "b", "x", given, "y"]
    assert messages[1].content == "changed"


def test_an_upsert_leaves_the_messages_that_it_does_not_change(palaver: Client) -> None:
    add(palaver, said("a"), said("b"))
    before = get_memory(palaver).messages[0]

    add(palaver, said("a"), said("b", "changed"))

    assert get_memory(palaver).messages[0] == before


def test_the_same_id_in_another_session_is_another_message(palaver: Client) -> None:
    palaver.memory.AddMemory(AddMemoryRequest(session_id="other", messages=[said("m", "other")]))

    add(palaver, said("m", "mine"))

    other = palaver.memory.GetMemory(GetMemoryRequest(session_id="other"))
    assert [message.content for message in other.messages] == ["other"]
    assert [message.content for message in get_memory(palaver).messages] == ["mine"]


def test_a_deleted_messages_id_is_a_new_message_at_the_end(palaver: Client) -> None:
    add(palaver, said("m", "old", token_count=5, metadata=struct(x=1), created_at=OLD), said("b"))
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", message_ids=["m"]))

    added = add(palaver, said("m", "new", created_at=OLDER))

    messages = get_memory(palaver).messages
    assert [(message.message_id, message.sequence) for message in messages] == [("b", 2), ("m", 3)]
    assert added.messages[0].sequence == 3
    assert added.messages[0].created_at == messages[1].created_at == OLDER
    assert (messages[1].content, messages[1].token_count) == ("new", 0)
    assert messages[1].metadata == struct()


def test_a_deleted_messages_id_does_not_get_its_old_time_back(palaver: Client) -> None:
    add(palaver, said("m", created_at=OLD))
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", message_ids=["m"]))

    added = add(palaver, said("m"))

    assert added.messages[0].created_at.seconds > OLD.seconds
    assert get_memory(palaver).messages[0].created_at == added.messages[0].created_at


def test_the_ids_of_a_deleted_session_are_new_messages(palaver: Client) -> None:
    add(palaver, said("a"), said("b"))
    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))

    added = add(palaver, said("b", "new"))

    assert added.session_undeleted
    (message,) = get_memory(palaver).messages
    assert (message.message_id, message.sequence, message.content) == ("b", 3, "new")


def test_the_same_id_twice_is_refused_and_nothing_written(palaver: Client) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        add(palaver, said("a"), said("b"), said("a"), said("a"))

    assert [v.field for v in refusal.detail(BadRequest).field_violations] == [
        "messages[2].message_id",
        "messages[3].message_id",
    ]
    with refused(grpc.StatusCode.NOT_FOUND):
        get_memory(palaver)


def test_a_bad_message_keeps_the_good_ones_from_being_written(palaver: Client) -> None:
    add(palaver, said("a"))
    before = state(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        add(palaver, said("a", "changed"), said("b"), Message(message_id="c"))

    assert state(palaver) == before
