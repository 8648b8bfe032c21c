"""Responses that Palaver encodes itself."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from palaver_server.offload import offload
from palaver_server.services.encoding import wire

MessageT = TypeVar("MessageT", bound=Message)
RowT = TypeVar("RowT")


class Encoded(Generic[MessageT]):
    """A response of type `MessageT` that is encoded when it is sent.

    Parsing the bytes into a message, only for gRPC to serialize it again, would take a quarter
    of the time of the rest of a read.

    Args:
        encode: Returns the encoded form.
        metadata_bytes: Size of the metadata in it as JSON, which takes by far the most time.
    """

    __slots__ = ("encode", "metadata_bytes")

    def __init__(self, encode: Callable[[], bytes], *, metadata_bytes: int) -> None:
        self.encode = encode
        self.metadata_bytes = metadata_bytes


async def encoded(response: Encoded[Any]) -> bytes:
    """Return the bytes of a response."""
    return await offload(response.metadata_bytes, response.encode)


def with_items(
    response: MessageT,
    field: str,
    encode_row: Callable[[RowT], bytes],
    rows: Iterable[RowT],
    *,
    metadata_bytes: int,
) -> Encoded[MessageT]:
    """Append rows to a repeated field of a response."""
    encode = partial(_encode_items, response, field, encode_row, rows)
    return Encoded(encode, metadata_bytes=metadata_bytes)


def _encode_items(
    response: MessageT, field: str, encode_row: Callable[[RowT], bytes], rows: Iterable[RowT]
) -> bytes:
    tag = wire.tag(type(response), field)
    items = [wire.delimited(tag, encode_row(row)) for row in rows]
    return b"".join((response.SerializeToString(), *items))
