"""Converts rows to messages and back. Pure: no I/O, no rules of the contract."""

import json
import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from palaver.v1 import admin_service_pb2, memory_pb2, memory_service_pb2, session_pb2

from server.purge import PurgeProgress
from server.store.memory import AddedMessage
from server.store.messages import MessageRow
from server.store.sessions import SessionRow

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_LAST_MOMENT = datetime.max.replace(tzinfo=UTC)
_MAX_EXACT_INTEGER = 2**53


def session_message(row: SessionRow) -> session_pb2.Session:
    """Converts a session."""
    return session_pb2.Session(
        session_id=row.session_id,
        user_id=row.user_id or "",
        metadata=struct_from_json(row.metadata),
        created_at=timestamp_message(row.created_at),
        updated_at=timestamp_message(row.updated_at),
        id=row.id,
        last_sequence=row.last_sequence,
    )


def message_message(row: MessageRow) -> memory_pb2.Message:
    """Converts a message."""
    return memory_pb2.Message(
        message_id=row.message_id,
        role=row.role,
        content=row.content,
        metadata=struct_from_json(row.metadata),
        token_count=row.token_count,
        sequence=row.sequence,
        created_at=timestamp_message(row.created_at),
        updated_at=timestamp_message(row.updated_at),
    )


def added_message(row: AddedMessage) -> memory_service_pb2.AddedMessage:
    """Converts what became of a message."""
    return memory_service_pb2.AddedMessage(
        message_id=row.message_id,
        sequence=row.sequence,
        created_at=timestamp_message(row.created_at),
    )


def purge_progress_message(progress: PurgeProgress) -> admin_service_pb2.PurgeDeletedResponse:
    """Converts how far a purge is."""
    return admin_service_pb2.PurgeDeletedResponse(
        sessions=_progress_of("sessions", progress), messages=_progress_of("messages", progress)
    )


def _progress_of(kind: str, progress: PurgeProgress) -> admin_service_pb2.PurgeProgress:
    return admin_service_pb2.PurgeProgress(
        done=progress.done[kind], estimated=progress.estimated[kind]
    )


def timestamp_message(moment: datetime) -> Timestamp:
    """Converts a time in UTC, to the microsecond."""
    microseconds = (moment - _EPOCH) // _MICROSECOND
    seconds, rest = divmod(microseconds, 1_000_000)
    return Timestamp(seconds=seconds, nanos=rest * 1000)


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
    struct = Struct()
    if text != "{}":
        _fill_struct(struct, object_from_json(text))
    return struct


def object_from_json(text: str) -> dict[str, Any]:
    """Parses a JSON object; integers that a double does not hold exactly become doubles."""
    fields: dict[str, Any] = json.loads(text, parse_int=_integer)
    return fields


def json_from_object(fields: dict[str, Any]) -> str:
    """Writes compact JSON."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


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
    return {
        _text(key): _object_from_value(value, max_levels - 1)
        for key, value in struct.fields.items()
    }


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


def _integer(digits: str) -> float | int:
    return int(digits) if len(digits) < len(str(_MAX_EXACT_INTEGER)) else _number(float(digits))


def _number(number: float) -> float | int:
    if not math.isfinite(number):
        raise ValueError("has a number that is NaN or infinite")
    return int(number) if number.is_integer() and abs(number) < _MAX_EXACT_INTEGER else number


def _fill_struct(struct: Struct, fields: dict[str, Any]) -> None:
    for key, item in fields.items():
        _fill_value(struct.fields[key], item)


def _fill_list(values: ListValue, items: Iterable[Any]) -> None:
    for item in items:
        _fill_value(values.values.add(), item)


def _fill_value(value: Value, item: Any) -> None:
    match item:
        case str():
            value.string_value = item
        case bool():
            value.bool_value = item
        case int() | float():
            value.number_value = item
        case None:
            value.null_value = 0  # type: ignore[assignment]
        case dict():
            value.struct_value.SetInParent()
            _fill_struct(value.struct_value, item)
        case list():
            value.list_value.SetInParent()
            _fill_list(value.list_value, item)
