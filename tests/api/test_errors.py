"""What a caller got wrong: every bad field by its path, and what is not there."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import AddUserRequest, UpdateUserRequest
from tests.support.client import Client, refused, struct

# Every RPC that is about a session that must be there.
OF_A_SESSION: list[tuple[Any, dict[str, Any]]] = [
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


def add(palaver: Client, *messages: Message, **fields: Any) -> object:
    return palaver.memory.AddMemory(AddMemoryRequest(session_id="s", messages=messages, **fields))


def violations(call: Callable[[], object]) -> list[str]:
    """The fields that a call is refused for."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        call()
    bad = refusal.detail(BadRequest).field_violations
    assert all(violation.description for violation in bad)
    assert all(violation.field in refusal.status.message for violation in bad)
    return [violation.field for violation in bad]


@pytest.mark.parametrize("session_id", ["missing", "deleted"])
def test_a_missing_or_deleted_session_is_not_found(
    palaver: Client, session_id: str, subtests: pytest.Subtests
) -> None:
    message = Message(message_id="m", role="user")
    palaver.memory.AddMemory(AddMemoryRequest(session_id="deleted", messages=[message]))
    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="deleted"))

    for request_type, fields in OF_A_SESSION:
        with subtests.test(request_type.__name__, **fields):
            with refused(grpc.StatusCode.NOT_FOUND) as refusal:
                palaver.send(request_type(session_id=session_id, **fields))

            info = refusal.detail(ResourceInfo)
            assert info.resource_type == "palaver.v1.Session"
            assert info.resource_name == session_id


@pytest.mark.parametrize("message_id", ["missing", "deleted"])
@pytest.mark.parametrize("request_type", [GetMessageRequest, UpdateMessageRequest])
def test_a_missing_or_deleted_message_is_not_found(
    palaver: Client, request_type: Any, message_id: str
) -> None:
    add(palaver, Message(message_id="deleted", role="user"))
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="s", last_n=1))

    with refused(grpc.StatusCode.NOT_FOUND) as refusal:
        palaver.send(request_type(session_id="s", message_id=message_id))

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.Message", message_id)


def test_all_bad_fields_of_a_session_are_named_at_once(palaver: Client) -> None:
    request = AddSessionRequest(session_id="", user_id="x" * 1025, metadata=struct(a=float("nan")))

    fields = violations(lambda: palaver.sessions.AddSession(request))

    assert fields == ["session_id", "user_id", "metadata"]


@pytest.mark.parametrize("request_type", [AddUserRequest, UpdateUserRequest])
def test_all_bad_fields_of_a_user_are_named_at_once(palaver: Client, request_type: Any) -> None:
    request = request_type(
        user_id="",
        email="x" * 321,
        first_name="x" * 257,
        last_name="\0",
        metadata=struct(a=float("nan")),
    )

    fields = violations(lambda: palaver.send(request))

    assert fields == ["user_id", "email", "first_name", "last_name", "metadata"]


def test_all_bad_fields_of_messages_are_named_by_their_paths(palaver: Client) -> None:
    messages = [
        Message(role="user"),
        Message(role="x" * 65, token_count=-1),
        Message(role="", content="\0", metadata=struct(a="\0")),
    ]

    fields = violations(lambda: add(palaver, *messages, expected_last_sequence=-1))

    assert fields == [
        "messages[1].role",
        "messages[1].token_count",
        "messages[2].role",
        "messages[2].content",
        "messages[2].metadata",
        "expected_last_sequence",
    ]


def test_all_bad_fields_of_a_listing_are_named_at_once(palaver: Client) -> None:
    narrowed = SessionFilter(user_id="\0", metadata="x" * 4097)
    narrowed.created_after.seconds = 10**12
    narrowed.created_before.nanos = -1
    expected = ["cursor", "filter.user_id", "filter.created_after", "filter.created_before"]
    expected += ["filter.metadata"]

    page = ListSessionsRequest(limit=1001, cursor=-1, filter=narrowed)
    assert violations(lambda: palaver.sessions.ListSessions(page)) == ["limit", *expected]
    stream = ListAllSessionsRequest(chunk_size=1001, cursor=-1, filter=narrowed)
    fields = violations(lambda: list(palaver.sessions.ListAllSessions(stream)))
    assert fields == ["chunk_size", *expected]


def test_all_bad_fields_of_an_update_are_named_at_once(palaver: Client) -> None:
    request = UpdateMessageRequest(
        role="", content="\0", token_count=-1, metadata=struct(a=float("inf"))
    )

    fields = violations(lambda: palaver.memory.UpdateMessage(request))

    assert sorted(fields) == sorted(
        ["session_id", "message_id", "role", "content", "token_count", "metadata"]
    )


def test_bad_ids_are_named_by_their_paths(palaver: Client) -> None:
    request = DeleteMessagesRequest(session_id="s", message_ids=["a", "", "b", "x" * 1025])

    fields = violations(lambda: palaver.memory.DeleteMessages(request))

    assert fields == ["message_ids[1]", "message_ids[3]"]


def test_a_thousand_bad_messages_are_refused_readably(palaver: Client) -> None:
    messages = [Message(role="", content="\0", token_count=-1) for _ in range(1000)]

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        add(palaver, *messages)

    bad = refusal.detail(BadRequest).field_violations
    assert bad[0].field == "messages[0].role"
    assert refusal.status.ByteSize() < 6000  # in base64, that is the 8 KiB of a client


def test_the_longest_ids_are_named_readably(palaver: Client, subtests: pytest.Subtests) -> None:
    for name in ("x" * 1024, "😀" * 256, "\x01" * 1024, "\U000e0001" * 256):
        with subtests.test(name=name[:1]):
            palaver.sessions.AddSession(AddSessionRequest(session_id=name))

            with refused(grpc.StatusCode.ALREADY_EXISTS) as exists:
                palaver.sessions.AddSession(AddSessionRequest(session_id=name))
            with refused(grpc.StatusCode.NOT_FOUND) as missing:
                palaver.memory.GetMessage(GetMessageRequest(session_id=name, message_id=name))

            assert exists.detail(ResourceInfo).resource_name == name
            assert missing.detail(ResourceInfo).resource_name == name


def test_the_reason_of_a_bad_path_is_readable_whatever_the_path_is(palaver: Client) -> None:
    palaver.add("s", "hello")
    for path in ("$." + "😀" * 1000 + " ==", '$.a like_regex "(' + "😀" * 1000 + '"', "$" * 4096):
        request = ListSessionsRequest(filter=SessionFilter(metadata=path))

        assert violations(lambda: palaver.sessions.ListSessions(request)) == ["filter.metadata"]  # noqa: B023


def test_bytes_that_are_no_request_are_refused(palaver: Client) -> None:
    for method in ("SessionService/GetSession", "MemoryService/AddMemory"):
        call: Any = palaver.channel.unary_unary(f"/palaver.v1.{method}")

        with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            call(b"\x0a\x01\xff")  # a session_id that is not UTF-8

        assert refusal.detail(BadRequest).field_violations


def test_metadata_too_deep_to_be_decoded_is_refused(palaver: Client) -> None:
    call: Any = palaver.channel.unary_unary("/palaver.v1.SessionService/AddSession")
    metadata = b""
    for _ in range(100):
        value = _field(5, metadata)  # struct_value
        metadata = _field(1, _field(1, b"a") + _field(2, value))  # fields["a"]

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        call(_field(1, b"s") + _field(3, metadata))

    assert refusal.detail(BadRequest).field_violations


def _field(number: int, content: bytes) -> bytes:
    """Encodes a field of protobuf by hand: the library would not go so deep."""
    size = len(content)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content
