"""Payloads of messages: opaque bytes that every RPC keeps as they are, or leaves out."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMessageRequest,
    SearchMemoryRequest,
)
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused, struct, violations
from tests.support.concurrency import Connection
from tests.support.rows import count_rows

MIB = 1024 * 1024
MAX_MESSAGE_BYTES = 3584 * 1024

# Whatever bytes: NUL, no UTF-8, and JSON whose integers and key order a Struct would lose.
PAYLOADS = [
    b"\0\xff\xfe",
    bytes(range(256)) * 4096,
    json.dumps({"z": 2**63 + 1, "a": "\0"}).encode(),
]


@pytest.fixture(params=PAYLOADS, ids=["odd", "large", "json"])
def message(request: pytest.FixtureRequest) -> Message:
    return Message(
        message_id="m",
        role="user",
        content="hello",
        payload=request.param,
        payload_type="application/json",
    )


def add(palaver: Client, *messages: Message, session_id: str = "s", **fields: Any) -> None:
    palaver.add_memory(session_id, messages, **fields)


def found(palaver: Client, **fields: Any) -> Message:
    request = SearchMemoryRequest(session_id="s", **fields)
    return palaver.memory.SearchMemory(request).results[0].message


# Each way to read the message `m` of the session `s`, alone or first; takes `without_payload`.
READS: dict[str, Callable[..., Message]] = {
    "GetMemory": lambda palaver, **fields: palaver.get_memory("s", **fields).messages[0],
    "GetMemory by roles": lambda palaver, **fields: palaver.get_memory(
        "s", pinned_roles=["user"], **fields
    ).messages[0],
    "ListMessages": lambda palaver, **fields: palaver.list_messages("s", **fields).messages[0],
    "StreamMessages": lambda palaver, **fields: palaver.stream_messages("s", **fields)[0].messages[
        0
    ],
    "GetMessage": lambda palaver, **fields: palaver.memory.GetMessage(
        GetMessageRequest(session_id="s", message_id="m", **fields)
    ),
    "UpdateMessage": lambda palaver, **fields: palaver.update_message("s", "m", **fields),
    "UpdateMessage with a change": lambda palaver, **fields: palaver.update_message(
        "s", "m", token_count=7, **fields
    ),
    "DeleteMessages by id": lambda palaver, **fields: palaver.delete_messages(
        "s", message_ids=["m"], **fields
    ).messages[0],
    "DeleteMessages from an end": lambda palaver, **fields: palaver.delete_messages(
        "s", last_n=1, **fields
    ).messages[0],
    "SearchMemory without text": found,
    "SearchMemory": partial(found, text="hello"),
    "SearchMemory with diversity": partial(found, text="hello", diversity=0.5),
}


# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_payload_is_returned_as_it_was_given(
    palaver: Client, message: Message, read: Callable[..., Message]
) -> None:
    add(palaver, message)

    returned = read(palaver)

    assert (returned.payload, returned.payload_type) == (message.payload, "application/json")


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_payload_is_left_out_on_request(
    palaver: Client, message: Message, read: Callable[..., Message]
) -> None:
    add(palaver, message)

    returned = read(palaver, without_payload=True)

    assert (returned.content, returned.payload) == ("hello", b"")
    assert returned.payload_type == "application/json"


@pytest.mark.parametrize("others", [{}, {"payload": b"other"}, {"payload_type": "text/plain"}])
def test_payload_of_upserted_message_is_replaced(palaver: Client, others: dict[str, Any]) -> None:
    add(palaver, Message(message_id="m", role="user", payload=b"old", payload_type="image/png"))

    add(palaver, Message(message_id="m", role="user", **others))

    message = palaver.get_message("s", "m")
    assert message.payload == others.get("payload", b"")
    assert message.payload_type == others.get("payload_type", "")
    assert (message.sequence, message.revision) == (1, 2)


def test_payload_of_retried_add_changes_nothing(palaver: Client, message: Message) -> None:
    add(palaver, message)
    before = palaver.get_message("s", "m")

    add(palaver, message)
    add(palaver, message, replace_messages=True)

    assert palaver.get_message("s", "m") == before


def test_payload_is_compared_by_replace_messages(palaver: Client, message: Message) -> None:
    add(palaver, message)
    other = Message()
    other.CopyFrom(message)
    other.payload = b"other"

    add(palaver, other, replace_messages=True)

    replaced = palaver.get_message("s", "m")
    assert (replaced.payload, replaced.sequence) == (b"other", 2)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"content": "new"}, (b"old", "image/png")),
        ({"payload": b"new"}, (b"new", "image/png")),
        ({"payload_type": "text/plain"}, (b"old", "text/plain")),
        ({"payload": b"", "payload_type": ""}, (b"", "")),
    ],
)
def test_update_message_changes_the_given_parts_of_the_payload(
    palaver: Client, change: dict[str, Any], expected: tuple[bytes, str]
) -> None:
    add(palaver, Message(message_id="m", role="user", payload=b"old", payload_type="image/png"))

    updated = palaver.update_message("s", "m", **change)

    assert (updated.payload, updated.payload_type, updated.revision) == (*expected, 2)
    assert updated == palaver.get_message("s", "m")


def test_update_message_to_the_same_payload_changes_nothing(
    palaver: Client, message: Message
) -> None:
    add(palaver, message)
    before = palaver.get_message("s", "m")

    updated = palaver.update_message("s", "m", payload=message.payload)

    assert updated == before


def test_payload_of_deleted_message_does_not_come_back(palaver: Client, message: Message) -> None:
    add(palaver, message)
    palaver.delete_messages("s", message_ids=["m"])

    add(palaver, Message(message_id="m", role="user"))

    returned = palaver.get_message("s", "m")
    assert (returned.payload, returned.payload_type) == (b"", "")


@pytest.mark.parametrize("delete", ["delete_session", "delete_user", "delete_messages"])
def test_payload_of_deleted_message_is_erased_at_once(
    palaver: Client, database: Connection, message: Message, delete: str
) -> None:
    add(palaver, message, user_id="u")

    if delete == "delete_session":
        palaver.delete_session("s")
    elif delete == "delete_user":
        palaver.delete_user("u")
    else:
        palaver.delete_messages("s", last_n=1)

    assert count_rows(database, "messages") == 1
    assert count_rows(database, "messages WHERE payload IS NOT NULL") == 0


def test_payload_is_neither_found_nor_counted(palaver: Client) -> None:
    add(palaver, Message(role="user", content="hi", payload=b"secret words " * 1000))

    assert not palaver.memory.SearchMemory(SearchMemoryRequest(text="secret")).results
    assert len(palaver.get_memory("s", max_tokens=1).messages) == 1


# --- Limits ------------------------------------------------------------------------------------


def test_add_memory_beyond_the_largest_message_is_refused(palaver: Client) -> None:
    metadata = struct(a=1)
    rest = MAX_MESSAGE_BYTES - 3 * MIB - metadata.ByteSize()

    def added(size: int) -> AddMemoryRequest:
        message = Message(
            role="user", content="x" * size, payload=bytes(3 * MIB), metadata=metadata
        )
        return AddMemoryRequest(session_id="s", messages=[message])

    palaver.memory.AddMemory(added(rest))
    assert violations(lambda: palaver.memory.AddMemory(added(rest + 1))) == ["messages[0].payload"]


@pytest.mark.parametrize("field", ["content", "metadata", "payload"])
def test_update_message_beyond_the_largest_message_is_refused(palaver: Client, field: str) -> None:
    metadata, larger = struct(a=1), struct(a=1, b=2)
    rest = MAX_MESSAGE_BYTES - 3 * MIB - metadata.ByteSize()
    message = Message(
        message_id="m",
        role="user",
        content="x" * rest,
        payload=bytes(3 * MIB - (field == "payload")),
        metadata=metadata,
    )
    palaver.add_memory("s", [message])
    palaver.update_message("s", "m", role="assistant")
    changes: dict[str, dict[str, Any]] = {
        "content": {"content": "x" * (rest + 2)},
        "metadata": {"metadata": larger},
        "payload": {"payload": bytes(3 * MIB), "content": "x" * (rest + 1)},
    }

    assert violations(lambda: palaver.update_message("s", "m", **changes[field])) == [field]

    assert palaver.get_message("s", "m").revision == 2


@pytest.fixture
def largest(palaver: Client) -> Client:
    """A session of messages that are as large as possible, and its metadata as well."""
    metadata = struct(a=(64 * 1024 - len('{"a":[]}')) // len("1,") * [1])
    palaver.add_session("s", metadata=metadata)
    rest = MAX_MESSAGE_BYTES - 3 * MIB - metadata.ByteSize()
    for number in range(3):
        message = Message(
            message_id=f"{number}".ljust(1024, "i"),
            role="😀" * 64,
            content="x " * (rest // 2),
            metadata=metadata,
            payload=bytes(3 * MIB),
            payload_type="x" * 255,
        )
        palaver.add_memory("s", [message])
    return palaver


def test_largest_messages_fit_every_response(largest: Client) -> None:
    windows: list[dict[str, Any]] = [{}, {"return_session": True}, {"pinned_roles": ["user"]}]
    for window in windows:
        memory = largest.get_memory("s", **window)
        assert [message.sequence for message in memory.messages] == [3]
        assert memory.has_more
        assert memory.ByteSize() <= MAX_RESPONSE_BYTES
    page = largest.list_messages("s")
    assert ([message.sequence for message in page.messages], page.next_cursor) == ([1], 1)
    chunks = largest.stream_messages("s")
    assert [len(chunk.messages) for chunk in chunks] == [1, 1, 1]
    found = largest.memory.SearchMemory(SearchMemoryRequest(text="x", session_id="s"))
    assert len(found.results) == 1
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        largest.delete_messages("s", last_n=2)
    assert len(largest.delete_messages("s", last_n=1).messages) == 1


def test_pages_without_payload_hold_what_fits_without_it(largest: Client) -> None:
    page = largest.list_messages("s", without_payload=True)
    memory = largest.get_memory("s", without_payload=True)
    found = largest.memory.SearchMemory(
        SearchMemoryRequest(text="x", session_id="s", without_payload=True)
    )

    assert [len(page.messages), len(memory.messages), len(found.results)] == [3, 3, 3]
    assert len(largest.delete_messages("s", last_n=3, without_payload=True).messages) == 3
