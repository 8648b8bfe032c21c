"""Converts rows to messages and back. Pure: no I/O, no rules of the contract."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import orjson
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import admin_service_pb2, memory_pb2, memory_service_pb2, session_pb2, user_pb2
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.embedding.worker import ReindexProgress
from palaver_server.purge.purger import PurgeProgress
from palaver_server.search.searcher import Results
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.wire import varint
from palaver_server.store.memory import AddedMemory, AddedMessage
from palaver_server.store.messages import MessageRow
from palaver_server.store.sessions import SessionRow
from palaver_server.store.users import UserRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
_MAX_EXACT_INTEGER = 2**53


_SESSION_ID = wire.tag(session_pb2.Session, "session_id")
_USER_ID = wire.tag(session_pb2.Session, "user_id")
_SESSION_METADATA = wire.tag(session_pb2.Session, "metadata")
_SESSION_CREATED_AT = wire.tag(session_pb2.Session, "created_at")
_SESSION_UPDATED_AT = wire.tag(session_pb2.Session, "updated_at")
_ID = wire.integer_tag(session_pb2.Session, "id")
_LAST_SEQUENCE = wire.integer_tag(session_pb2.Session, "last_sequence")


def _encoded_session(row: SessionRow) -> bytes:
    session_id, position, user_id, metadata, last_sequence, created_at, updated_at = row
    id_ = session_id.encode()
    struct = _encoded_metadata(metadata)
    created = wire.timestamp(created_at)
    updated = created if updated_at == created_at else wire.timestamp(updated_at)
    return b"".join(
        (
            _SESSION_ID, varint(len(id_)), id_,
            wire.delimited(_USER_ID, user_id.encode()) if user_id else b"",
            _SESSION_METADATA, varint(len(struct)), struct,
            _SESSION_CREATED_AT, varint(len(created)), created,
            _SESSION_UPDATED_AT, varint(len(updated)), updated,
            _ID, varint(position),
            _LAST_SEQUENCE + varint(last_sequence) if last_sequence else b"",
        )
    )  # fmt: skip


_MESSAGE_ID = wire.tag(memory_pb2.Message, "message_id")
_ROLE = wire.tag(memory_pb2.Message, "role")
_CONTENT = wire.tag(memory_pb2.Message, "content")
_MESSAGE_METADATA = wire.tag(memory_pb2.Message, "metadata")
_TOKEN_COUNT = wire.integer_tag(memory_pb2.Message, "token_count")
_SEQUENCE = wire.integer_tag(memory_pb2.Message, "sequence")
_MESSAGE_CREATED_AT = wire.tag(memory_pb2.Message, "created_at")
_MESSAGE_UPDATED_AT = wire.tag(memory_pb2.Message, "updated_at")


def _encoded_message(row: MessageRow) -> bytes:
    message_id, sequence, role, content, token_count, metadata, created_at, updated_at = row
    id_, role_, text = message_id.encode(), role.encode(), content.encode()
    struct = _encoded_metadata(metadata)
    created = wire.timestamp(created_at)
    updated = created if updated_at == created_at else wire.timestamp(updated_at)
    return b"".join(
        (
            _MESSAGE_ID, varint(len(id_)), id_,
            _ROLE, varint(len(role_)), role_,
            _CONTENT, varint(len(text)), text,
            _MESSAGE_METADATA, varint(len(struct)), struct,
            _TOKEN_COUNT + varint(token_count) if token_count else b"",
            _SEQUENCE, varint(sequence),
            _MESSAGE_CREATED_AT, varint(len(created)), created,
            _MESSAGE_UPDATED_AT, varint(len(updated)), updated,
        )
    )  # fmt: skip


def _encoded_metadata(text: str) -> bytes:
    return b"" if text == "{}" else wire.struct(orjson.loads(text))


def session_message(row: SessionRow) -> session_pb2.Session:
    """Converts a session; gives it encoded, as it is to be sent."""
    return cast(session_pb2.Session, _encoded_session(row))


def user_message(row: UserRow) -> user_pb2.User:
    """Converts a user."""
    return user_pb2.User(
        user_id=row.user_id,
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        metadata=struct_from_json(row.metadata),
        created_at=timestamp_message(row.created_at),
        updated_at=timestamp_message(row.updated_at),
        id=row.id,
    )


def message_message(row: MessageRow) -> memory_pb2.Message:
    """Converts a message; gives it encoded, as it is to be sent."""
    return cast(memory_pb2.Message, _encoded_message(row))


ListT = TypeVar("ListT", bound=ProtobufMessage)


def with_sessions(response: ListT, rows: Iterable[SessionRow]) -> ListT:
    """Adds sessions to the `sessions` of a response; gives it encoded, as it is to be sent."""
    return _with_items(response, "sessions", map(_encoded_session, rows))


def with_messages(response: ListT, rows: Iterable[MessageRow]) -> ListT:
    """Adds messages to the `messages` of a response; gives it encoded, as it is to be sent."""
    return _with_items(response, "messages", map(_encoded_message, rows))


def _with_items(response: ListT, field: str, encoded: Iterable[bytes]) -> ListT:
    # To parse the bytes, and have them written again, would take a quarter of all the rest.
    tag = wire.tag(type(response), field)
    items = [wire.delimited(tag, item) for item in encoded]
    return cast(ListT, b"".join((response.SerializeToString(), *items)))


def search_response(found: Results) -> memory_service_pb2.SearchMemoryResponse:
    """Converts what a search found."""
    modes = memory_service_pb2.SearchMemoryRequest.Mode
    return memory_service_pb2.SearchMemoryResponse(
        results=[
            memory_service_pb2.SearchResult(
                message=memory_pb2.Message.FromString(_encoded_message(result.message)),
                session_id=result.session_id,
                score=result.score,
                snippet=result.snippet,
            )
            for result in found.results
        ],
        mode=modes.Value(found.mode.name if found.mode else "MODE_UNSPECIFIED"),
    )


_ADDED_MESSAGE_ID = wire.tag(memory_service_pb2.AddedMessage, "message_id")
_ADDED_SEQUENCE = wire.integer_tag(memory_service_pb2.AddedMessage, "sequence")
_ADDED_CREATED_AT = wire.tag(memory_service_pb2.AddedMessage, "created_at")


def added_memory(added: AddedMemory) -> memory_service_pb2.AddMemoryResponse:
    """Converts what adding memory did; gives it encoded, as it is to be sent."""
    response = memory_service_pb2.AddMemoryResponse(
        session_created=added.session_created, session_undeleted=added.session_undeleted
    )
    return _with_items(response, "messages", map(_encoded_added_message, added.messages))


def _encoded_added_message(row: AddedMessage) -> bytes:
    message_id, sequence, created_at = row
    id_, created = message_id.encode(), wire.timestamp(created_at)
    return b"".join(
        (
            _ADDED_MESSAGE_ID, varint(len(id_)), id_,
            _ADDED_SEQUENCE, varint(sequence),
            _ADDED_CREATED_AT, varint(len(created)), created,
        )
    )  # fmt: skip


def purge_progress_message(progress: PurgeProgress) -> admin_service_pb2.PurgeDeletedResponse:
    """Converts how far a purge is."""
    return admin_service_pb2.PurgeDeletedResponse(
        sessions=_progress_of("sessions", progress),
        messages=_progress_of("messages", progress),
        users=_progress_of("users", progress),
    )


def _progress_of(kind: str, progress: PurgeProgress) -> admin_service_pb2.PurgeProgress:
    return admin_service_pb2.PurgeProgress(
        done=progress.done[kind], estimated=progress.estimated[kind]
    )


def reindex_response(progress: Mapping[str, ReindexProgress]) -> admin_service_pb2.ReindexResponse:
    """Converts how far a reindex is."""
    return admin_service_pb2.ReindexResponse(
        **{
            kind: admin_service_pb2.ReindexProgress(done=part.done, estimated=part.estimated)
            for kind, part in progress.items()
        }
    )


def timestamp_message(timestamp: PgTimestamp) -> Timestamp:
    """Converts a time."""
    return Timestamp.FromString(wire.timestamp(timestamp))


def datetime_from_timestamp(timestamp: Timestamp, *, round_up: bool = False) -> datetime:
    """Converts a time, rounded down to the microsecond, or up.

    Raises:
        OverflowError: It lies outside the years 1 to 9999.
    """
    microseconds, rest = divmod(timestamp.nanos, 1000)
    moment = _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=microseconds)
    return min(moment, _LAST_MOMENT - _MICROSECOND) + _MICROSECOND if round_up and rest else moment


def struct_from_json(text: str) -> Struct:
    """Parses a JSON object into a Struct."""
    return Struct.FromString(_encoded_metadata(text))


def object_from_json(text: str) -> dict[str, Any]:
    """Parses a JSON object."""
    fields: dict[str, Any] = orjson.loads(text)
    return fields


def json_from_object(fields: dict[str, Any]) -> str:
    """Writes compact JSON."""
    return orjson.dumps(fields).decode()


def object_from_struct(struct: Struct, *, max_levels: int) -> dict[str, Any]:
    """Converts a Struct to plain Python.

    Integral numbers become integers where a double holds them exactly, as JSON writes them.

    Raises:
        ValueError: It has NUL in a key or string, NaN, infinity, a value that is
            nothing, or more than `max_levels` levels of objects and lists. The text
            says which.
    """
    if max_levels == 0:
        raise ValueError("has too many levels")
    fields = struct.fields  # whose `items` are found in Python, one by one
    return {_text(key): _object_from_value(fields[key], max_levels - 1) for key in fields}


def _object_from_value(value: Value, max_levels: int) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return _text(value.string_value)
        case "number_value":
            return _number(value.number_value)
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case "struct_value":
            return object_from_struct(value.struct_value, max_levels=max_levels)
        case "list_value":
            if max_levels == 0:
                raise ValueError("has too many levels")
            return [_object_from_value(item, max_levels - 1) for item in value.list_value.values]
        case _:
            raise ValueError("has a value of no kind")


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL character")
    return text


def _number(number: float) -> float | int:
    if not math.isfinite(number):
        raise ValueError("has a number that is NaN or infinite")
    return int(number) if number.is_integer() and abs(number) < _MAX_EXACT_INTEGER else number
