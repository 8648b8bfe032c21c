"""Conversion of metadata between `google.protobuf.Struct`, Python objects and stored JSON."""

import math
from typing import Any

import orjson
from google.protobuf.struct_pb2 import Struct, Value

from palaver_server.services.encoding import wire

_MAX_EXACT_INTEGER = 2**53  # below it, a double holds each integer exactly


def struct_from_json(text: str) -> Struct:
    """Return the `Struct` of a JSON object."""
    return Struct.FromString(wire.json_struct(text))


def struct_size(text: str) -> int:
    """Return the size of the `Struct` of a JSON object, in bytes."""
    return len(wire.json_struct(text))


def object_from_json(text: str) -> dict[str, Any]:
    """Parse a JSON object."""
    fields: dict[str, Any] = orjson.loads(text)
    return fields


def json_from_object(fields: dict[str, Any]) -> str:
    """Write an object as compact JSON."""
    return orjson.dumps(fields).decode()


def sorted_json(fields: dict[str, Any]) -> bytes:
    """Write an object as JSON with sorted keys, for comparisons: in Python, True equals 1."""
    return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def object_from_struct(struct: Struct, *, max_levels: int) -> dict[str, Any]:
    """Return a `Struct` as a Python object.

    Integral numbers become integers where a double holds them exactly, as JSON writes them.

    Raises:
        ValueError: The struct has a NUL character in a key or string, NaN, infinity, a value
            without a kind, or more than `max_levels` levels of objects and lists. The text
            says which.
    """
    try:
        return _object(struct, max_levels)
    except _TooManyLevels:
        raise ValueError(f"must have at most {max_levels} levels of objects and lists") from None


class _TooManyLevels(Exception):
    """An object or list is nested too deep."""


def _object(struct: Struct, levels_left: int) -> dict[str, Any]:
    if levels_left == 0:
        raise _TooManyLevels
    fields = struct.fields
    # Not `fields.items()`: the map's generic implementation in Python is slower.
    return {_text(key): _object_from_value(fields[key], levels_left - 1) for key in fields}


def _object_from_value(value: Value, levels_left: int) -> Any:
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
            return _object(value.struct_value, levels_left)
        case "list_value":
            if levels_left == 0:
                raise _TooManyLevels
            return [_object_from_value(item, levels_left - 1) for item in value.list_value.values]
        case _:
            raise ValueError("must not have a value without a kind")


def _text(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not have a NUL character")
    return text


def _number(number: float) -> float | int:
    if not math.isfinite(number):
        raise ValueError("must not have a number that is NaN or infinite")
    return int(number) if number.is_integer() and abs(number) < _MAX_EXACT_INTEGER else number
