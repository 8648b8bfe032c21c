"""Encoded messages of any type, generated from its descriptor.

They are bytes, since no library encodes what a hostile caller may send: strings that are not
UTF-8, several members of a `oneof`, repeated fields, unknown fields, and excessive nesting.
Source: https://protobuf.dev/programming-guides/encoding.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

from fuzz import values
from fuzz.chance import chance
from palaver_server.services.encoding.wire import delimited, varint

_INTEGER, _FIXED64, _DELIMITED, _GROUP, _GROUP_END, _FIXED32 = range(6)

# Nesting levels of messages; each level of a Struct takes three.
_LEVELS = 7

_NOTHING = st.just(b"")

Encoded = st.SearchStrategy[bytes]


def tag(number: int, wire_type: int) -> bytes:
    """Encode the tag of a field."""
    return varint(number << 3 | wire_type)


@cache
def messages(descriptor: Descriptor, *, odd: bool, levels: int = _LEVELS) -> Encoded:
    """Return encoded messages of a type.

    Args:
        descriptor: The type's descriptor.
        odd: Whether they may also hold values that a caller would not send.
        levels: Maximum nesting of messages.
    """
    fields = [field for field in descriptor.fields if _levels_of(field) < levels]
    parts = [_occurrences(field, odd=odd, levels=levels) for field in fields if not _choice(field)]
    for oneof in descriptor.oneofs:
        choices = [field for field in fields if _choice(field) and field.containing_oneof == oneof]
        parts.append(_one_of(choices, odd=odd, levels=levels))
    if odd:
        parts.append(chance(10, _unknown_fields, _NOTHING))
        if descriptor.full_name == "google.protobuf.Struct":
            return chance(10, _deep_structs, _joined(parts))
    return _joined(parts)


def _levels_of(field: FieldDescriptor) -> int:
    """Return the minimum number of levels of a field's value."""
    if field.message_type is None:
        return 0
    return 2 if field.message_type.GetOptions().map_entry else 1


def _joined(parts: Sequence[Encoded]) -> Encoded:
    return st.tuples(*parts).map(b"".join)


def _choice(field: FieldDescriptor) -> bool:
    """Return whether the field is one of several in a `oneof`, and not just `optional`."""
    return field.containing_oneof is not None and len(field.containing_oneof.fields) > 1


def _one_of(fields: Sequence[FieldDescriptor], *, odd: bool, levels: int) -> Encoded:
    if not fields:
        return _NOTHING
    one = st.one_of([_field(field, odd=odd, levels=levels) for field in fields])
    return chance(10, st.lists(one, max_size=2).map(b"".join), one) if odd else one


def _occurrences(field: FieldDescriptor, *, odd: bool, levels: int) -> Encoded:
    """Return the occurrences of a field: as many as are valid, or more if odd."""
    once = _field(field, odd=odd, levels=levels)
    several = st.lists(once, min_size=0 if odd else 1, max_size=3).map(b"".join)
    if field.is_repeated:
        return several
    is_optional = field.has_presence and field.message_type is None
    there = chance(70 if is_optional else 10 if odd else 3, _NOTHING, once)
    return chance(5, several, there) if odd else there


def _field(field: FieldDescriptor, *, odd: bool, levels: int) -> Encoded:
    """Return a field with its tag, once."""
    if field.message_type is not None:
        inner = st.deferred(lambda: messages(field.message_type, odd=odd, levels=levels - 1))
        return inner.map(lambda encoded: delimited(tag(field.number, _DELIMITED), encoded))
    usual, unusual, wire_type = _scalar(field)
    drawn = chance(20, unusual, usual) if odd else usual
    return drawn.map(lambda encoded: tag(field.number, wire_type) + encoded)


def _scalar(field: FieldDescriptor) -> tuple[Encoded, Encoded, int]:
    """Return the usual and the odd values of a field, encoded, and their wire type."""
    odd_integers = values.odd_integers.map(_integer)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            usual, odd = values.usual_strings(field), values.odd_strings(field)
            return usual.map(_text), odd.map(_text), _DELIMITED
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return values.usual_doubles.map(_double), values.odd_doubles.map(_double), _FIXED64
        case FieldDescriptor.CPPTYPE_ENUM:
            known = [value.number for value in field.enum_type.values] if field.enum_type else []
            return st.sampled_from(known).map(_integer), odd_integers, _INTEGER
        case FieldDescriptor.CPPTYPE_BOOL:
            return st.integers(0, 1).map(_integer), odd_integers, _INTEGER
        case _:
            return values.usual_integers(field).map(_integer), odd_integers, _INTEGER


_double = struct.Struct("<d").pack


def _text(value: bytes) -> bytes:
    return delimited(b"", value)


def _integer(value: int) -> bytes:
    return varint(value % 2**64)


_unknown_fields = st.builds(
    lambda number, field: tag(number, field[0]) + field[1],
    st.sampled_from([9, 99, 536, 18_999, 19_000, 2**29 - 1]),
    st.sampled_from(
        [
            (_INTEGER, b"\x01"), (_INTEGER, b"\xff" * 9 + b"\x01"), (_FIXED64, b"\0" * 8),
            (_DELIMITED, b"\0"), (_DELIMITED, b"\x03abc"), (_FIXED32, b"\0" * 4),
        ]
    ),
)  # fmt: skip


def _nested(levels: int, value: bytes, wrap: Callable[[bytes], bytes]) -> bytes:
    for _ in range(levels):
        value = wrap(value)
    return value


def _entry(key: bytes, value: bytes) -> bytes:
    """Encode an entry of a Struct: `fields`, with a key and a Value."""
    return delimited(b"\x0a", delimited(b"\x0a", key) + delimited(b"\x12", value))


def _in_struct(value: bytes) -> bytes:
    return delimited(b"\x2a", _entry(b"a", value))


def _in_list(value: bytes) -> bytes:
    return delimited(b"\x32", delimited(b"\x0a", value))


_TRUE = b"\x20\x01"

# Around the limits of metadata, in levels and bytes, and around protobuf's nesting limit.
_deep_structs = st.one_of(
    st.builds(
        lambda levels, value, wrap: _entry(b"a", _nested(levels, value, wrap)),
        st.sampled_from([1, 29, 30, 31, 32, 33, 34, 48, 49, 50, 51, 98, 99, 100, 101, 1000]),
        st.sampled_from([_TRUE, b"", b"\x2a\x00", b"\x32\x00"]),
        st.sampled_from([_in_struct, _in_list]),
    ),
    st.builds(
        lambda size: b"".join(_entry(b"%d" % number, _TRUE) for number in range(size)),
        st.sampled_from([100, 5000, 7000]),
    ),
)
