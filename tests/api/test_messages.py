"""MemoryService: getting and changing single messages."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    GetMessageRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import Session
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.client import Client, refused, struct


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


def update(palaver: Client, **fields: Any) -> Message:
    return palaver.memory.UpdateMessage(
        UpdateMessageRequest(session_id="s", message_id="m", **fields)
    )


def test_a_message_is_got_by_its_id(palaver: Client, message: Message) -> None:
    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id="s"))

    assert message.sequence == 2
    assert message == memory.messages[1]


def test_a_message_of_another_session_is_not_found(palaver: Client, message: Message) -> None:
    palaver.add("other", "hello")

    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.memory.GetMessage(GetMessageRequest(session_id="other", message_id="m"))


def test_only_what_is_given_changes(
    palaver: Client, message: Message, subtests: pytest.Subtests
) -> None:
    for field, value in (
        ("role", "assistant"),
        ("content", "bye"),
        ("content", ""),
        ("token_count", 9),
        ("token_count", 0),
        ("metadata", struct(other=True)),
    ):
        with subtests.test(field, value=value):
            before = get(palaver, "m")

            updated = update(palaver, **{field: value})

            expected = Message()
            expected.CopyFrom(before)
            if field == "metadata":
                expected.metadata.update({"other": True})
            else:
                setattr(expected, field, value)
            expected.updated_at.CopyFrom(updated.updated_at)
            assert updated == expected
            assert updated.updated_at.ToNanoseconds() > before.updated_at.ToNanoseconds()
            assert get(palaver, "m") == updated


def test_everything_may_change_at_once(palaver: Client, message: Message) -> None:
    updated = update(
        palaver, role="tool", content="x", token_count=1, metadata=struct(a=None, deep=None)
    )

    assert (updated.role, updated.content, updated.token_count) == ("tool", "x", 1)
    assert updated.metadata == struct()


def test_metadata_merges_at_every_depth(palaver: Client, message: Message) -> None:
    updated = update(palaver, metadata=struct(a=None, deep={"x": None, "z": {"n": [None]}}))

    assert updated.metadata == struct(deep={"y": 2, "z": {"n": [None]}})


def test_an_update_leaves_the_session_and_its_other_messages(
    palaver: Client, message: Message
) -> None:
    before, others = get_session(palaver), [get(palaver, "before"), get(palaver, "after")]

    updated = update(palaver, content="bye")

    after = get_session(palaver)
    assert after.updated_at == updated.updated_at
    after.updated_at.CopyFrom(before.updated_at)
    assert after == before
    assert [get(palaver, "before"), get(palaver, "after")] == others


def test_a_merge_beyond_the_limit_is_refused_and_changes_nothing(palaver: Client) -> None:
    add(palaver, Message(message_id="m", role="user", metadata=struct(a="x" * 40_000)))
    before = get(palaver, "m"), get_session(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        update(palaver, content="changed", metadata=struct(b="x" * 40_000))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert (get(palaver, "m"), get_session(palaver)) == before


def test_concurrent_merges_of_different_keys_all_survive(palaver: Client, message: Message) -> None:
    patches = [struct(counts={f"key {number}": number}) for number in range(20)]

    calls = [
        palaver.memory.UpdateMessage.future(
            UpdateMessageRequest(session_id="s", message_id="m", metadata=patch)
        )
        for patch in patches
    ]
    for call in calls:
        call.result()

    counts = {f"key {number}": number for number in range(20)}
    assert get(palaver, "m").metadata["counts"] == struct(**counts)
