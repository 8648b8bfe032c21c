"""Reading of the protobuf wire format without parsing: the fields of an encoded message.

Source: https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5

_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MAX_VARINT_BYTES = 10


class WireField(NamedTuple):
    """The place of a field in an encoded message: its value is between `start` and `end`."""

    number: int
    wire_type: int
    tag_start: int
    start: int
    end: int


def wire_fields(data: bytes) -> Iterator[WireField]:
    """Yield the fields of an encoded message, in order.

    Raises:
        ValueError: The bytes are no message, or have a group, which proto3 does not.
    """
    position, size = 0, len(data)
    while position < size:
        tag_start = position
        tag, start = read_varint(data, position)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            length, start = read_varint(data, start)
            position = start + length
        elif wire_type == VARINT:
            _, position = read_varint(data, start)
        elif wire_type in _FIXED_BYTES:
            position = start + _FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"wire type {wire_type}")
        if position > size:
            raise ValueError("truncated")
        yield WireField(tag >> 3, wire_type, tag_start, start, position)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the varint at a position, and the position after it.

    Raises:
        ValueError: It is truncated or too long.
    """
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise ValueError("invalid varint")
