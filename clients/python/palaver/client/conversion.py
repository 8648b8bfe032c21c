"""Conversion between protobuf messages and plain Python values."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeAlias, TypeVar, cast

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.client import types

ResultT = TypeVar("ResultT")

_Decoder: TypeAlias = Callable[[Any], Any]
_Field: TypeAlias = Any  # a FieldDescriptor, for which the types have two classes

# Metadata numbers are doubles, which hold whole numbers up to here exactly.
_MAX_EXACT_INTEGER = 2**53


def encode(message: Message, fields: Mapping[str, Any]) -> None:
    """Set the fields of a message; None leaves a field unset.

    Raises:
        TypeError: There is no such field, or the value has a wrong type.
        ValueError: The field cannot hold the value.
    """
    descriptors = message.DESCRIPTOR.fields_by_name
    for name, value in fields.items():
        if name not in descriptors:
            raise TypeError(f"{message.DESCRIPTOR.name} has no field {name!r}")
        if value is not None:
            _encode_field(message, descriptors[name], value)


def _encode_field(message: Message, field: _Field, value: Any) -> None:
    if field.message_type is None:
        if field.enum_type is not None:
            value = _enum_number(field.enum_type, value)
        if field.is_repeated:
            getattr(message, field.name).extend(value)
        else:
            setattr(message, field.name, value)
    elif field.is_repeated:
        items = getattr(message, field.name)
        for each in value:
            _encode_message(items.add(), field.name, each)
    else:
        nested = getattr(message, field.name)
        nested.SetInParent()  # an empty one differs from none
        _encode_message(nested, field.name, value)


def _encode_message(message: Message, name: str, value: Any) -> None:
    match message:
        case Struct():
            _encode_struct(message, name, value)
        case Timestamp():
            if value.tzinfo is None:
                raise ValueError(f"{name}: must have a time zone, as in datetime.now(UTC)")
            message.FromDatetime(value)
        case Duration():
            message.FromTimedelta(value)
        case _ if isinstance(value, Message):
            message.CopyFrom(value)
        case _ if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            encode(message, {field.name: getattr(value, field.name) for field in fields})
        case _:
            encode(message, value)


def _encode_struct(struct: Struct, path: str, values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        _encode_value(struct.fields[key], f"{path}.{key}", value)


def _encode_value(target: Value, path: str, value: Any) -> None:
    match value:
        case None:
            target.null_value = 0  # type: ignore[assignment]
        case bool():
            target.bool_value = value
        case str():
            target.string_value = value
        case int() if abs(value) > _MAX_EXACT_INTEGER:
            raise ValueError(f"{path}: must be -2**53 to 2**53, or a text; got {value}")
        case int() | float():
            target.number_value = value
        case Mapping():
            target.struct_value.SetInParent()
            _encode_struct(target.struct_value, path, value)
        case list() | tuple():
            target.list_value.SetInParent()
            for number, each in enumerate(value):
                _encode_value(target.list_value.values.add(), f"{path}[{number}]", each)
        case _:
            kind = type(value).__name__
            raise TypeError(f"{path}: must be a value of JSON; got a value of type {kind}")


def _enum_number(enum: EnumDescriptor, value: str) -> int:
    names = _enum_names(enum)
    for number, name in names.items():
        if name == value:
            return number
    raise ValueError(f"{enum.name}: must be one of {', '.join(names.values())}; got {value!r}")


@cache
def _enum_names(enum: EnumDescriptor) -> dict[int, str]:
    """Return the names of an enum's values, without the prefix that repeats its own name."""
    unspecified = enum.values_by_number[0].name
    prefix = unspecified.removesuffix("UNSPECIFIED")
    return {value.number: value.name.removeprefix(prefix) for value in enum.values}


def decode(message: Message, result: type[ResultT]) -> ResultT:
    """Return a message as its dataclass."""
    present = {
        name: decoder(getattr(message, name))
        for name, has_presence, decoder in _decoders(
            cast("Any", result), cast("Any", type(message))
        )
        if not has_presence or message.HasField(name)
    }
    return result(**present)


@cache
def _decoders(result: Any, message: Any) -> list[tuple[str, bool, _Decoder]]:
    """Return the fields of a dataclass: name, whether it may be unset, and how to decode it."""
    descriptors = message.DESCRIPTOR.fields_by_name
    fields = [descriptors[field.name] for field in dataclasses.fields(result)]
    return [(field.name, field.has_presence, _decoder(field)) for field in fields]


def _decoder(field: _Field) -> _Decoder:
    decoder = _decoder_of_one(field)
    if field.is_repeated:
        return lambda values: [decoder(value) for value in values]
    return decoder


def _decoder_of_one(field: _Field) -> _Decoder:
    if field.enum_type is not None:
        names = _enum_names(field.enum_type)
        return lambda number: names.get(number, str(number))  # from a newer server
    if field.message_type is None:
        return lambda value: value
    match field.message_type.full_name:
        case "google.protobuf.Struct":
            return _decode_struct
        case "google.protobuf.Timestamp":
            return _decode_timestamp
        case "google.protobuf.Duration":
            return _decode_duration
    nested = getattr(types, field.message_type.name)
    return lambda message: decode(message, nested)


def _decode_timestamp(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(UTC)


def _decode_duration(duration: Duration) -> timedelta:
    return duration.ToTimedelta()


def _decode_struct(struct: Struct) -> dict[str, Any]:
    return {key: _decode_value(value) for key, value in struct.fields.items()}


def _decode_list(values: ListValue) -> list[Any]:
    return [_decode_value(value) for value in values.values]


def _decode_value(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "number_value":
            return _decode_number(value.number_value)
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return _decode_struct(value.struct_value)
        case "list_value":
            return _decode_list(value.list_value)
    return None


def _decode_number(number: float) -> int | float:
    """Return a whole number as an int: JSON does not distinguish 1 and 1.0."""
    is_whole = math.isfinite(number) and number.is_integer()
    return int(number) if is_whole and abs(number) <= _MAX_EXACT_INTEGER else number
