"""Encoding of messages."""

from collections.abc import Sequence

from palaver.v1.memory_pb2 import Message
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded, MessageT, with_items
from palaver_server.services.encoding.wire import varint
from palaver_server.store.messages import MessageRow

_MESSAGE_ID = wire.tag(Message, "message_id")
_ROLE = wire.tag(Message, "role")
_CONTENT = wire.tag(Message, "content")
_METADATA = wire.tag(Message, "metadata")
_TOKEN_COUNT = wire.integer_tag(Message, "token_count")
_SEQUENCE = wire.integer_tag(Message, "sequence")
_CREATED_AT = wire.tag(Message, "created_at")
_UPDATED_AT = wire.tag(Message, "updated_at")
_REVISION = wire.integer_tag(Message, "revision")
_PAYLOAD = wire.tag(Message, "payload")
_PAYLOAD_TYPE = wire.tag(Message, "payload_type")


def encode_messages(rows: Sequence[MessageRow]) -> list[bytes]:
    """Return the bytes of each row's `Message`."""
    metadata = [row.metadata for row in rows]
    times = wire.timestamps([time for row in rows for time in (row.created_at, row.updated_at)])
    structs = list(map(wire.json_struct, metadata))
    return [_encode(row, struct, times) for row, struct in zip(rows, structs, strict=True)]


def _encode(row: MessageRow, struct: bytes, times: dict[PgTimestamp, bytes]) -> bytes:
    message_id, sequence, role, content, token_count, _, created_at, updated_at = row[:8]
    revision, payload, payload_type = row[8:]
    id_, role_, text = message_id.encode(), role.encode(), content.encode()
    created, updated = times[created_at], times[updated_at]
    return b"".join(
        (
            _MESSAGE_ID, varint(len(id_)), id_,
            _ROLE, varint(len(role_)), role_,
            _CONTENT, varint(len(text)), text,
            _METADATA, varint(len(struct)), struct,
            _TOKEN_COUNT + varint(token_count) if token_count else b"",
            _SEQUENCE, varint(sequence),
            _CREATED_AT, varint(len(created)), created,
            _UPDATED_AT, varint(len(updated)), updated,
            _REVISION, varint(revision),
            _PAYLOAD + varint(len(payload)) if payload else b"", payload or b"",
            wire.delimited(_PAYLOAD_TYPE, payload_type.encode()) if payload_type else b"",
        )
    )  # fmt: skip


def message_response(row: MessageRow) -> Encoded[Message]:
    """Return the response that is a message."""
    return Encoded.of(encode_messages((row,)), metadata_bytes=len(row.metadata))


def with_messages(response: MessageT, rows: Sequence[MessageRow]) -> Encoded[MessageT]:
    """Append messages to the `messages` of a response."""
    metadata_bytes = sum([len(row.metadata) for row in rows])
    tag = wire.tag(type(response), "messages")
    return with_items(response, tag, encode_messages, rows, metadata_bytes=metadata_bytes)
