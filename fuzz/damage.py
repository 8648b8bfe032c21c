"""Damage encoded messages: the result is malformed, or another message than before."""

from collections.abc import Callable

from hypothesis import strategies as st

_MAX_INSERTED_BYTES = 12

# Tags that start or end groups, overlong varints, and lengths beyond the end.
_PIECES = st.one_of(
    st.sampled_from(
        [
            b"\x0b", b"\x0c", b"\x0b\x0c", b"\x13" * 200, b"\x00", b"\x07", b"\x0e",
            b"\x80" * 9 + b"\x01", b"\x80" * 10 + b"\x01", b"\xff" * 12, b"\x80",
            b"\x0a\xff\xff\xff\xff\x07", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x05",
        ]
    ),
    st.binary(min_size=1, max_size=_MAX_INSERTED_BYTES),
)  # fmt: skip

Damage = Callable[[bytes, int, int, bytes], bytes]


def _flip(data: bytes, start: int, _end: int, piece: bytes) -> bytes:
    """Flip a bit; in a tag this changes the field number or the wire type."""
    return data[:start] + bytes([(data[start] ^ 1 << piece[0] % 8)]) + data[start + 1 :]


def _lengthen(data: bytes, start: int, _end: int, piece: bytes) -> bytes:
    """Lengthen a varint with zero groups, which decoders accept up to a limit."""
    zeros = b"\x80" * (piece[0] % 11) + b"\x00"
    return data[:start] + bytes([data[start] | 0x80]) + zeros + data[start + 1 :]


_DAMAGES: list[Damage] = [
    _flip,
    _lengthen,
    lambda data, start, _end, _piece: data[:start],
    lambda data, start, end, _piece: data[:start] + data[end:],
    lambda data, start, end, _piece: data[:end] + data[start:],
    lambda data, start, _end, piece: data[:start] + piece + data[start:],
    lambda data, start, end, piece: data[:start] + piece + data[end:],
    lambda data, start, end, _piece: data[start:end] * 3 + data,
]


@st.composite
def damaged(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """Draw a message, and damage it up to three times."""
    data = draw(whole)
    for _ in range(draw(st.integers(1, 3))):
        if not data:
            return draw(_PIECES)
        start = draw(st.integers(0, len(data) - 1))
        end = min(len(data), start + draw(st.integers(1, 40)))
        data = draw(st.sampled_from(_DAMAGES))(data, start, end, draw(_PIECES))
    return data
