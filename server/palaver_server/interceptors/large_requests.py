"""Decoding of large requests: their limits are checked on the encoded form, before it is parsed.

Parsing costs far more than receiving: empty messages take 100 times their encoded size in memory,
and a megabyte of them holds the event loop for 100 ms. So a large request is scanned first, and
refused at the first list, metadata or text over its limit; validation checks the rest. The items
of a list of messages are parsed when they are iterated, one at a time, so that `offload` can do
it and they never exist all at once.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from palaver_server.errors import FieldViolation, InvalidRequest
from palaver_server.services.encoding.wire_reader import LENGTH_DELIMITED, WireField, wire_fields
from palaver_server.services.limits import (
    MAX_CONTENT_BYTES,
    MAX_EMAIL_BYTES,
    MAX_ID_BYTES,
    MAX_ITEMS,
    MAX_METADATA_BYTES,
    MAX_NAME_CHARACTERS,
    MAX_PATH_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_TYPE_BYTES,
    MAX_ROLE_CHARACTERS,
    MAX_ROLES,
    MAX_STRUCT_BYTES,
    max_struct_bytes,
)

# The largest encoded forms of strings and bytes by the field's name; a character takes up to 4
# bytes.
_MAX_STRING_BYTES = {
    "content": MAX_CONTENT_BYTES,
    "email": MAX_EMAIL_BYTES,
    "first_name": 4 * MAX_NAME_CHARACTERS,
    "last_name": 4 * MAX_NAME_CHARACTERS,
    "message_id": MAX_ID_BYTES,
    "message_ids": MAX_ID_BYTES,
    "metadata": MAX_PATH_BYTES,  # of a filter
    "payload": MAX_PAYLOAD_BYTES,
    "payload_type": MAX_PAYLOAD_TYPE_BYTES,
    "pinned_roles": 4 * MAX_ROLE_CHARACTERS,
    "role": 4 * MAX_ROLE_CHARACTERS,
    "roles": 4 * MAX_ROLE_CHARACTERS,
    "session_id": MAX_ID_BYTES,
    "session_id_prefix": MAX_ID_BYTES,
    "start_roles": 4 * MAX_ROLE_CHARACTERS,
    "text": MAX_CONTENT_BYTES,
    "user_id": MAX_ID_BYTES,
    "user_id_prefix": MAX_ID_BYTES,
    "user_ids": MAX_ID_BYTES,
}
_LIMITED_TYPES = (
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
    FieldDescriptor.TYPE_MESSAGE,
)
_MAX_ITEMS = {
    "message_ids": MAX_ITEMS,
    "messages": MAX_ITEMS,
    "pinned_roles": MAX_ROLES,
    "roles": MAX_ROLES,
    "start_roles": MAX_ROLES,
    "user_ids": MAX_ITEMS,
}

_STRUCT = "google.protobuf.Struct"

_METADATA_OF_MESSAGES = ("palaver.v1.Message.metadata", "palaver.v1.UpdateMessageRequest.metadata")

# The largest encoded forms of messages by their type, with room for fields that this version does
# not know.
_MAX_MESSAGE_BYTES = {
    _STRUCT: MAX_STRUCT_BYTES,
    "google.protobuf.Timestamp": 1024,
    "google.protobuf.Duration": 1024,
    "palaver.v1.MessageFilter": 64 * 1024,
    "palaver.v1.SessionFilter": 64 * 1024,
    "palaver.v1.UserFilter": MAX_ITEMS * (MAX_ID_BYTES + 4) + 64 * 1024,
}

# Fields in one message, where each item, each repetition and each unknown field counts.
_MAX_FIELDS = 2 * MAX_ITEMS


def malformed_request() -> InvalidRequest:
    """Return the error of a request that cannot be parsed."""
    description = "must be a message of the method's type, nested at most 100 levels deep"
    return InvalidRequest(FieldViolation("request", description))


def message_decoder(descriptor: Descriptor) -> Callable[[bytes], Message]:
    """Return a function that parses messages of a type; it raises InvalidRequest."""
    decode = GetMessageClass(descriptor).FromString

    def decode_message(data: bytes) -> Message:
        try:
            return decode(data)
        except DecodeError as error:
            raise malformed_request() from error

    return decode_message


class LargeRequestDecoder:
    """The decoder of large requests of a type.

    Args:
        descriptor: The type.
        max_metadata_bytes: Maximum size of the metadata of sessions and users as JSON.

    Raises:
        KeyError: A field of the type has no limit here.
    """

    def __init__(
        self, descriptor: Descriptor, max_metadata_bytes: int = MAX_METADATA_BYTES
    ) -> None:
        self._limits = _Limits(descriptor, max_metadata_bytes)
        self._decode = message_decoder(descriptor)
        self._lists = {
            field.number: (
                field.name,
                _Limits(field.message_type, max_metadata_bytes),
                message_decoder(field.message_type),
            )
            for field in descriptor.fields
            if field.is_repeated and field.message_type is not None
        }

    def decode(self, request: bytes) -> "LargeRequest":
        """Check and decode a request, except for the items of lists of messages.

        Raises:
            InvalidRequest: A field is over its limit, or the bytes are no message of the type.
        """
        others: list[bytes] = []
        items: dict[int, list[bytes]] = {number: [] for number in self._lists}
        for field in self._limits.checked(request):
            if field.number in items and field.wire_type == LENGTH_DELIMITED:
                items[field.number].append(request[field.start : field.end])
            else:
                others.append(request[field.tag_start : field.end])
        lists = [
            _Items(name, items[number], limits, decode)
            for number, (name, limits, decode) in self._lists.items()
        ]
        return LargeRequest(self._decode(b"".join(others)), lists, size=len(request))


class LargeRequest:
    """A request with the attributes of its message type, for handlers."""

    def __init__(self, others: Message, lists: Sequence["_Items"], *, size: int) -> None:
        self._others = others
        self._lists = {items.name: items for items in lists}
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return self._lists[name] if name in self._lists else getattr(self._others, name)

    def ByteSize(self) -> int:  # noqa: N802 - the name in protobuf
        """Return the size of the encoded request."""
        return self._size


class _Items(Sequence[Message]):
    """The items of a list, each checked and parsed when it is accessed."""

    def __init__(
        self, name: str, items: list[bytes], limits: "_Limits", decode: Callable[[bytes], Message]
    ) -> None:
        self.name = name
        self._items = items
        self._limits = limits
        self._decode = decode

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        item = self._items[index]
        self._limits.check(item, f"{self.name}[{index}].")
        return self._decode(item)


class _Limit(NamedTuple):
    """The limits of a field.

    Attributes:
        max_items: Maximum items of a list; None: the field is no list.
        max_bytes: Maximum size of an item, or of all occurrences; None: unlimited.
        inner: The limits of the fields in a message.
        max_json_bytes: Maximum size as JSON, which is checked later.
    """

    name: str
    max_items: int | None
    max_bytes: int | None
    inner: "_Limits | None" = None
    max_json_bytes: int | None = None

    @classmethod
    def of(cls, field: FieldDescriptor, max_metadata_bytes: int) -> "_Limit":
        """Return the limits of a field of a request."""
        max_items = _MAX_ITEMS[field.name] if field.is_repeated else None
        message_type = field.message_type
        if message_type is None:
            return cls(field.name, max_items, _MAX_STRING_BYTES[field.name])
        if field.is_repeated:  # `_Items` checks each
            return cls(field.name, max_items, None)
        is_ours = message_type.full_name.startswith("palaver.")
        max_bytes = _MAX_MESSAGE_BYTES[message_type.full_name]
        max_json_bytes = None
        of_message = field.full_name in _METADATA_OF_MESSAGES
        if message_type.full_name == _STRUCT and not of_message:
            max_bytes, max_json_bytes = max_struct_bytes(max_metadata_bytes), max_metadata_bytes
        inner = _Limits(message_type, max_metadata_bytes) if is_ours else None
        return cls(field.name, max_items, max_bytes, inner, max_json_bytes)


class _Limits:
    """The limits of a message type, checked on encoded messages."""

    def __init__(self, descriptor: Descriptor, max_metadata_bytes: int) -> None:
        self._limits = {
            field.number: _Limit.of(field, max_metadata_bytes)
            for field in descriptor.fields
            if field.type in _LIMITED_TYPES
        }

    def check(self, data: bytes, path: str) -> None:
        """Check a message; `checked` documents the arguments and the error."""
        for _ in self.checked(data, path):
            pass

    def checked(self, data: bytes, path: str = "") -> Iterator[WireField]:
        """Yield the fields of a message, each after its check.

        Args:
            data: The encoded message.
            path: Prefix of the fields' names, such as `filter.`.

        Raises:
            InvalidRequest: A field is over its limit, or the bytes are no message.
        """
        counts: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        try:
            for count, field in enumerate(wire_fields(data), 1):
                if count > _MAX_FIELDS:
                    _refuse(
                        path.rstrip(".") or "request", f"must have at most {_MAX_FIELDS} fields"
                    )
                limit = self._limits.get(field.number)
                if limit is not None and field.wire_type == LENGTH_DELIMITED:
                    counts[field.number] += 1
                    size = field.end - field.start
                    if limit.max_items is None:
                        size = sizes[field.number] = sizes[field.number] + size
                    _check(limit, path, count=counts[field.number], size=size)
                    if limit.inner:
                        limit.inner.check(data[field.start : field.end], f"{path}{limit.name}.")
                yield field
        except ValueError as error:
            raise malformed_request() from error


def _check(limit: _Limit, path: str, *, count: int, size: int) -> None:
    field = path + limit.name
    if limit.max_items is not None and count > limit.max_items:
        _refuse(field, f"must have at most {limit.max_items} items; got more")
    if limit.max_bytes is not None and size > limit.max_bytes:
        if limit.max_items is not None:
            field = f"{field}[{count - 1}]"
        as_json = f"{limit.max_json_bytes} bytes as JSON and " if limit.max_json_bytes else ""
        _refuse(field, f"must have at most {as_json}{limit.max_bytes} bytes encoded; got {size}")


def _refuse(field: str, description: str) -> NoReturn:
    raise InvalidRequest(FieldViolation(field, description))
