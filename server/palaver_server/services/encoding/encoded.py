"""Responses that are already encoded."""

from collections.abc import Iterable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from palaver_server.services.encoding import wire

MessageT = TypeVar("MessageT", bound=Message)


class Encoded(Generic[MessageT]):
    """A response of type `MessageT` in its encoded form, which is sent unchanged.

    Parsing the bytes into a message, only for gRPC to serialize it again, would take a quarter
    of the time of the rest of a read.
    """

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


def with_items(response: MessageT, field: str, items: Iterable[bytes]) -> Encoded[MessageT]:
    """Append encoded messages to a repeated field of a response."""
    tag = wire.tag(type(response), field)
    encoded_items = [wire.delimited(tag, item) for item in items]
    return Encoded(b"".join((response.SerializeToString(), *encoded_items)))
