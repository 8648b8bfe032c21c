"""The hand-written encoding writes every field of the descriptors, as protobuf itself does."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import memory_pb2, memory_service_pb2, session_pb2, user_pb2
from palaver_server.database.timestamps import EPOCH
from palaver_server.search.searcher import Mode, Result, Results
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.added_memory import added_memory_response
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.messages import message_response, with_messages
from palaver_server.services.encoding.search_results import search_response
from palaver_server.services.encoding.sessions import session_response
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.services.encoding.users import encode_user
from palaver_server.store.memory import AddedMemory, AddedMessage
from palaver_server.store.messages import MessageRow
from palaver_server.store.sessions import SessionRow
from palaver_server.store.users import UserRow
from tests.support.client import struct

CREATED_AT = Timestamp(seconds=int(EPOCH.timestamp()) + 86_400, nanos=123_456_000)
UPDATED_AT = Timestamp(seconds=int(EPOCH.timestamp()) + 90_000, nanos=654_321_000)
CREATED, UPDATED = 86_400_123_456, 90_000_654_321  # microseconds since PostgreSQL's epoch

# A value of each kind, and lengths around the limits of caches and of varints.
METADATA = struct(
    string="s", number=1.5, integer=300, yes=True, no=False, null=None, object={"k": ["v", {}]},
    list=[1, "two", None, [], {"three": 3}], **{"k" * 200: "v" * 20_000, "é": "é" * 100},
)  # fmt: skip
JSON = (
    '{"string": "s", "number": 1.5, "integer": 300, "yes": true, "no": false, "null": null,'
    ' "object": {"k": ["v", {}]}, "list": [1, "two", null, [], {"three": 3}],'
    f' "{"k" * 200}": "{"v" * 20_000}", "é": "{"é" * 100}"}}'
)

MESSAGE = memory_pb2.Message(
    message_id="m", role="user", content="hello " * 5000, metadata=METADATA, token_count=200,
    sequence=70_000, created_at=CREATED_AT, updated_at=UPDATED_AT, revision=300,
    payload=bytes(range(256)), payload_type="image/png",
)  # fmt: skip
MESSAGE_ROW = MessageRow(
    "m", 70_000, "user", "hello " * 5000, 200, JSON, CREATED, UPDATED, 300,
    bytes(range(256)), "image/png",
)  # fmt: skip

SESSION = session_pb2.Session(
    session_id="s", user_id="u", metadata=METADATA, created_at=CREATED_AT, updated_at=UPDATED_AT,
    id=2**40, last_sequence=70_000, revision=300, ttl=Duration(seconds=300, nanos=1000),
    expires_at=UPDATED_AT,
)  # fmt: skip
SESSION_ROW = SessionRow("s", 2**40, "u", JSON, 70_000, CREATED, UPDATED, 300, 300_000_001, UPDATED)

USER = user_pb2.User(
    user_id="u", email="e", first_name="f", last_name="l", metadata=METADATA,
    created_at=CREATED_AT, updated_at=UPDATED_AT, id=2**40, revision=300,
)  # fmt: skip
USER_ROW = UserRow(
    user_id="u", email="e", first_name="f", last_name="l", metadata=JSON,
    created_at=CREATED, updated_at=UPDATED, id=2**40, revision=300,
)  # fmt: skip

SEARCH = memory_service_pb2.SearchMemoryResponse(
    results=[
        memory_service_pb2.SearchResult(message=MESSAGE, session_id="s", score=0.5, snippet="he")
    ],
    mode=memory_service_pb2.SearchMemoryRequest.HYBRID,
)
ADDED = memory_service_pb2.AddMemoryResponse(
    messages=[
        memory_service_pb2.AddedMessage(message_id="m", sequence=70_000, created_at=CREATED_AT)
    ],
    session_created=True,
    session_undeleted=True,
    session=SESSION,
    messages_deleted=3,
)


def encoded(response: Encoded[Any]) -> bytes:
    return asyncio.run(response.encode())


# Each message that the encoding writes: every field set, and what the encoding makes of it.
WRITTEN: dict[str, tuple[Message, Callable[[], bytes]]] = {
    "Message": (MESSAGE, lambda: encoded(message_response(MESSAGE_ROW))),
    "Session": (SESSION, lambda: encoded(session_response(SESSION_ROW))),
    "User": (USER, lambda: encode_user(USER_ROW)),
    "SearchMemoryResponse": (
        SEARCH,
        lambda: encoded(
            search_response(Results([Result("s", MESSAGE_ROW, 0.5, "he")], Mode.HYBRID))
        ),
    ),
    "AddMemoryResponse": (
        ADDED,
        lambda: encoded(
            added_memory_response(
                AddedMemory(
                    session_created=True,
                    session_undeleted=True,
                    messages=[AddedMessage("m", 70_000, CREATED)],
                    messages_deleted=3,
                    session=SESSION_ROW,
                )
            )
        ),
    ),
    "ListMessagesResponse": (
        memory_service_pb2.ListMessagesResponse(messages=[MESSAGE, MESSAGE], next_cursor=7),
        lambda: encoded(
            with_messages(
                memory_service_pb2.ListMessagesResponse(next_cursor=7), [MESSAGE_ROW, MESSAGE_ROW]
            )
        ),
    ),
    "Struct": (METADATA, lambda: wire.json_struct(JSON)),
    "Timestamp": (CREATED_AT, lambda: timestamp_message(CREATED).SerializeToString()),
}


@pytest.mark.parametrize(("message", "encode"), WRITTEN.values(), ids=WRITTEN)
def test_encoding_of_every_field_is_what_protobuf_writes(
    message: Message, encode: Callable[[], bytes]
) -> None:
    parsed = type(message).FromString(encode())

    assert parsed == message
    assert serialized(parsed) == serialized(message)
    assert len(encode()) == message.ByteSize(), "each field is written once"


def serialized(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("message", [message for message, _ in WRITTEN.values()], ids=WRITTEN)
def test_encoding_test_messages_set_every_field(message: Message) -> None:
    assert_full(message)


def assert_full(message: Message) -> None:
    """Check that each field is set, also in nested messages, and each kind of metadata value."""
    for field in message.DESCRIPTOR.fields:
        value: Any = getattr(message, field.name)
        if isinstance(message, Struct):
            assert kinds(message) == {kind.name for kind in Value.DESCRIPTOR.fields}
        elif field.message_type is not None and isinstance(value, Message):
            assert message.HasField(field.name), field.full_name
            assert_full(value)
        elif field.message_type is not None:
            assert value, field.full_name
            for item in value:
                assert_full(item)
        else:
            assert value != field.default_value, field.full_name


def kinds(metadata: Struct) -> set[str | None]:
    return {value.WhichOneof("kind") for value in metadata.fields.values()}


def test_encoding_without_the_optional_fields_is_what_protobuf_writes() -> None:
    message = MessageRow("m", 1, "user", "", 0, "{}", CREATED, CREATED, 1)
    session = SessionRow("s", 1, None, "{}", 0, CREATED, CREATED, 1)

    assert memory_pb2.Message.FromString(encoded(message_response(message))) == memory_pb2.Message(
        message_id="m", role="user", sequence=1, metadata=Struct(),
        created_at=CREATED_AT, updated_at=CREATED_AT, revision=1,
    )  # fmt: skip
    assert session_pb2.Session.FromString(
        encoded(session_response(session))
    ) == session_pb2.Session(
        session_id="s",
        id=1,
        metadata=Struct(),
        created_at=CREATED_AT,
        updated_at=CREATED_AT,
        revision=1,
    )
