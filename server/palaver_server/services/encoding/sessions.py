"""Encoding of sessions."""

from collections.abc import Sequence

from palaver.v1.session_pb2 import Session
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded, MessageT, with_items
from palaver_server.services.encoding.wire import varint
from palaver_server.store.sessions import SessionRow

_SESSION_ID = wire.tag(Session, "session_id")
_USER_ID = wire.tag(Session, "user_id")
_METADATA = wire.tag(Session, "metadata")
_CREATED_AT = wire.tag(Session, "created_at")
_UPDATED_AT = wire.tag(Session, "updated_at")
_REVISION = wire.integer_tag(Session, "revision")
_ID = wire.integer_tag(Session, "id")
_LAST_SEQUENCE = wire.integer_tag(Session, "last_sequence")
_TTL = wire.tag(Session, "ttl")
_EXPIRES_AT = wire.tag(Session, "expires_at")


def encode_session(row: SessionRow) -> bytes:
    """Return the bytes of a `Session`."""
    session_id, position, user_id, metadata, last_sequence, created_at, updated_at = row[:7]
    id_ = session_id.encode()
    struct = wire.json_struct(metadata)
    created = wire.timestamp(created_at)
    updated = created if updated_at == created_at else wire.timestamp(updated_at)
    return b"".join(
        (
            _SESSION_ID, varint(len(id_)), id_,
            wire.delimited(_USER_ID, user_id.encode()) if user_id else b"",
            _METADATA, varint(len(struct)), struct,
            _CREATED_AT, varint(len(created)), created,
            _UPDATED_AT, varint(len(updated)), updated,
            _ID, varint(position),
            _LAST_SEQUENCE + varint(last_sequence) if last_sequence else b"",
            _REVISION, varint(row.revision),
            wire.delimited(_TTL, wire.duration(row.ttl)) if row.ttl else b"",
            b"" if row.expires_at is None
            else wire.delimited(_EXPIRES_AT, wire.timestamp(row.expires_at)),
        )
    )  # fmt: skip


def _encode_sessions(rows: Sequence[SessionRow]) -> list[bytes]:
    return [encode_session(row) for row in rows]


def session_response(row: SessionRow) -> Encoded[Session]:
    """Return the response that is a session."""
    return Encoded.of(map(encode_session, (row,)), metadata_bytes=len(row.metadata))


def with_sessions(response: MessageT, rows: Sequence[SessionRow]) -> Encoded[MessageT]:
    """Append sessions to the `sessions` of a response."""
    metadata_bytes = sum([len(row.metadata) for row in rows])
    tag = wire.tag(type(response), "sessions")
    return with_items(response, tag, _encode_sessions, rows, metadata_bytes=metadata_bytes)
