"""Validation of request fields by the rules of the `.proto` files."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1 import memory_service_pb2 as pb
from palaver.v1 import session_service_pb2
from palaver.v1.memory_pb2 import Message as MessageProto
from palaver_server.errors import FieldViolation, InvalidRequest
from palaver_server.offload import MAX_INLINE_BYTES, MAX_PARSED_BYTES, offload_each
from palaver_server.services.encoding.metadata import (
    json_from_object,
    object_from_struct,
    struct_size,
)
from palaver_server.services.encoding.timestamps import datetime_from_timestamp
from palaver_server.services.limits import (
    DEFAULT_LIMIT,
    MAX_CONTENT_BYTES,
    MAX_DURATION_SECONDS,
    MAX_EMAIL_BYTES,
    MAX_ID_BYTES,
    MAX_ITEMS,
    MAX_LARGE_STRUCT_BYTES,
    MAX_LIMIT,
    MAX_METADATA_BYTES,
    MAX_METADATA_LEVELS,
    MAX_NAME_CHARACTERS,
    MAX_PATH_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PAYLOAD_TYPE_BYTES,
    MAX_ROLE_CHARACTERS,
    MAX_ROLES,
    MAX_TTL_SECONDS,
    MAX_VIOLATIONS,
    max_struct_bytes,
)
from palaver_server.store.expected import Expected
from palaver_server.store.memory import NewMessage
from palaver_server.store.message_filter import EVERY_MESSAGE, MessageFilter
from palaver_server.store.messages import MAX_MESSAGE_BYTES

# The requests with a filter of messages.
FilteringRequest: TypeAlias = (
    pb.GetMemoryRequest | pb.ListMessagesRequest | pb.StreamMessagesRequest | pb.SearchMemoryRequest
)

# The requests that may set a TTL.
ExpiringRequest: TypeAlias = (
    pb.AddMemoryRequest
    | session_service_pb2.AddSessionRequest
    | session_service_pb2.UpdateSessionRequest
)

EnumT = TypeVar("EnumT", bound=int)


class Fields:
    """A checker of a request's fields, which reports all violations at once.

    Use it as a context manager. Each method checks one field and returns its value in the form
    that the stores take; the value of an invalid field is unspecified. The end of the block
    raises InvalidRequest if there were violations. The first 20 violations end the checks.

    Args:
        path: Prefix of the fields' names, such as `messages[2].`.
        max_metadata_bytes: Maximum size of metadata as JSON, except in nested messages.
    """

    def __init__(self, path: str = "", *, max_metadata_bytes: int = MAX_METADATA_BYTES) -> None:
        self._path = path
        self.max_metadata_bytes = max_metadata_bytes
        self._violations: list[FieldViolation] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None and self._violations:
            raise InvalidRequest(*self._violations)

    def reject(self, field: str, description: str) -> None:
        """Add a violation.

        Raises:
            InvalidRequest: It is the last one to report; the fields after it are not checked.
        """
        self._violations.append(FieldViolation(self._path + field, description))
        if len(self._violations) == MAX_VIOLATIONS:
            raise InvalidRequest(*self._violations, is_complete=False)

    def at(self, path: str) -> "Fields":
        """Return a checker for a nested message, which adds its violations to these."""
        inner = Fields(f"{self._path}{path}.")
        inner._violations = self._violations
        return inner

    def id(self, field: str, value: str) -> str:
        """Check a required ID."""
        if not value:
            self.reject(field, "must not be empty")
        return self._text(field, value, max_bytes=MAX_ID_BYTES)

    def optional_id(self, field: str, value: str) -> str | None:
        """Check an optional ID; return None if it is empty."""
        return self.id(field, value) if value else None

    def ids(self, field: str, values: Sequence[str]) -> list[str]:
        """Check a list of IDs."""
        if len(values) > MAX_ITEMS:
            self.item_count(field, len(values))
            return []
        return [self.id(f"{field}[{index}]", value) for index, value in enumerate(values)]

    def role(self, field: str, value: str) -> str:
        """Check the role of a message."""
        if not value:
            self.reject(field, "must not be empty")
        return self._short_text(field, value, max_characters=MAX_ROLE_CHARACTERS)

    def roles(self, field: str, values: Sequence[str]) -> Sequence[str]:
        """Check a list of roles."""
        if len(values) > MAX_ROLES:
            self.reject(field, f"must have at most {MAX_ROLES} items; got {len(values)}")
            return ()
        return [self.role(f"{field}[{index}]", value) for index, value in enumerate(values)]

    def email(self, field: str, value: str) -> str:
        """Check the size of an email address; its syntax is not checked."""
        return self._text(field, value, max_bytes=MAX_EMAIL_BYTES)

    def name(self, field: str, value: str) -> str:
        """Check a first or last name."""
        return self._short_text(field, value, max_characters=MAX_NAME_CHARACTERS)

    def content(self, field: str, value: str) -> str:
        """Check the content of a message."""
        return self._text(field, value, max_bytes=MAX_CONTENT_BYTES)

    def payload(self, field: str, value: bytes) -> bytes:
        """Check the payload of a message."""
        if len(value) > MAX_PAYLOAD_BYTES:
            self.reject(field, f"must have at most {MAX_PAYLOAD_BYTES} bytes; got {len(value)}")
        return value

    def payload_type(self, field: str, value: str) -> str:
        """Check the type of a payload."""
        if not value.isascii():
            self.reject(field, "must be ASCII")
        return self._text(field, value, max_bytes=MAX_PAYLOAD_TYPE_BYTES)

    def path(self, field: str, value: str) -> str | None:
        """Check the size of a SQL/JSON path; the database checks its syntax."""
        return self._text(field, value, max_bytes=MAX_PATH_BYTES) or None

    def metadata(self, field: str, message: Message) -> str:
        """Check the metadata in `field` of `message`; return JSON, by default an empty object."""
        patch = self.metadata_patch(field, message)
        return self.metadata_json(field, patch) if patch else "{}"

    def metadata_patch(self, field: str, message: Message) -> dict[str, Any] | None:
        """Check the metadata in `field` of `message`; return None if it is not set."""
        if not message.HasField(field):
            return None
        struct: Struct = getattr(message, field)
        try:
            return object_from_struct(struct, max_levels=MAX_METADATA_LEVELS)
        except ValueError as error:
            self.reject(field, str(error))
            return {}

    def metadata_json(self, field: str, metadata: dict[str, Any]) -> str:
        """Check the size of metadata, and return it as JSON."""
        text = json_from_object(metadata)
        max_bytes = self.max_metadata_bytes
        if max_struct_bytes(max_bytes) < MAX_LARGE_STRUCT_BYTES:  # no Struct is too large then
            self._check_bytes(field, text, max_bytes, " as JSON")
            return text
        size = len(text.encode())
        if size > max_bytes or max_struct_bytes(size) == MAX_LARGE_STRUCT_BYTES:
            encoded = struct_size(text)
            if size > max_bytes or encoded > MAX_LARGE_STRUCT_BYTES:
                self.reject(
                    field,
                    f"must have at most {max_bytes} bytes as JSON and {MAX_LARGE_STRUCT_BYTES}"
                    f" bytes encoded; got {size} and {encoded}",
                )
        return text

    async def new_messages(self, request: pb.AddMemoryRequest) -> list[NewMessage]:
        """Check the messages to add, those of large requests in the offload thread.

        Args:
            request: Its messages are parsed, unless it is large.
        """
        messages = request.messages
        if not messages and request.replace_messages:
            return []
        checked = self._new_messages("messages", messages)
        if request.ByteSize() <= MAX_PARSED_BYTES:  # then only metadata takes long to convert
            metadata_bytes = sum([message.metadata.ByteSize() for message in messages])
            if metadata_bytes <= MAX_INLINE_BYTES:
                return list(checked)
        return await offload_each(checked)

    def _new_messages(self, field: str, messages: Sequence[MessageProto]) -> Iterator[NewMessage]:
        self.item_count(field, len(messages))
        if len(messages) > MAX_ITEMS:
            return
        first_index: dict[str, int] = {}
        for index, message in enumerate(messages):
            inner = self.at(f"{field}[{index}]")
            yield inner.new_message(message)
            if message.message_id and first_index.setdefault(message.message_id, index) != index:
                first = first_index[message.message_id]
                inner.reject("message_id", f"must be unique; {field}[{first}] has the same")

    def new_message(self, message: MessageProto) -> NewMessage:
        """Check the fields of a message to add."""
        if message.payload:  # a message without one is never too large
            size = len(message.payload) + len(message.content.encode())
            self.message_size("payload", size + message.metadata.ByteSize())
        return NewMessage(
            message_id=self.optional_id("message_id", message.message_id),
            role=self.role("role", message.role),
            content=self.content("content", message.content),
            token_count=self.not_negative("token_count", message.token_count),
            metadata=self.metadata("metadata", message),
            created_at=self.timestamp("created_at", message),
            payload=self.payload("payload", message.payload),
            payload_type=self.payload_type("payload_type", message.payload_type),
        )

    def message_size(self, field: str, size: int) -> None:
        """Check the size of a message's content, payload and encoded metadata together."""
        if size > MAX_MESSAGE_BYTES:
            self.reject(
                field,
                "content, payload and encoded metadata must have at most"
                f" {MAX_MESSAGE_BYTES} bytes together; got {size}",
            )

    def limit(
        self, field: str, value: int, *, default: int = DEFAULT_LIMIT, maximum: int = MAX_LIMIT
    ) -> int:
        """Check the number of items to return; 0 selects the default."""
        if value == 0:
            return default
        if not 1 <= value <= maximum:
            self.reject(
                field, f"must be 1–{maximum}, or 0 for the default ({default}); got {value}"
            )
        return value

    def count(self, field: str, value: int) -> int:
        """Check a number of items, which is at least one."""
        if not 1 <= value <= MAX_ITEMS:
            self.reject(field, f"must be 1–{MAX_ITEMS}; got {value}")
        return value

    def item_count(self, field: str, value: int) -> int:
        """Check how many items a list has."""
        if not 1 <= value <= MAX_ITEMS:
            self.reject(field, f"must have 1–{MAX_ITEMS} items; got {value}")
        return value

    def fraction(self, field: str, value: float) -> float:
        """Check a number from 0 to 1."""
        if not 0 <= value <= 1:  # true for NaN
            self.reject(field, f"must be 0–1; got {value:g}")
        return value

    def enum(self, field: str, value: EnumT, enum: EnumDescriptor) -> EnumT:
        """Check the value of an enum."""
        if value not in enum.values_by_number:
            self.reject(field, f"must be one of {', '.join(enum.values_by_name)}; got {value}")
        return value

    def not_negative(self, field: str, value: int) -> int:
        """Check a count or a position."""
        if value < 0:
            self.reject(field, f"must not be negative; got {value}")
        return value

    @staticmethod
    def is_append(request: pb.AddMemoryRequest) -> bool:
        """Return whether a request asks for nothing but adding messages."""
        return not (
            request.HasField("expected_last_sequence")
            or request.HasField("expected_revision")
            or request.HasField("session_metadata")
            or request.HasField("user_metadata")
            or request.session_metadata_mode
            or request.user_metadata_mode
            or request.session_must_exist
            or request.replace_messages
            or request.return_session
            or request.HasField("ttl")
        )

    def message_filter(self, field: str, request: FilteringRequest) -> MessageFilter:
        """Check the filter of messages in `field` of a request."""
        if not request.HasField("filter"):
            return EVERY_MESSAGE
        inner, given = self.at(field), request.filter
        return MessageFilter(
            roles=inner.roles("roles", given.roles),
            # Stored times are whole microseconds: comparing them to a bound rounded up gives the
            # same result as comparing them to the nanosecond.
            created_after=inner.timestamp("created_after", given, round_up=True),
            created_before=inner.timestamp("created_before", given, round_up=True),
            metadata=inner.path("metadata", given.metadata),
        )

    def expected(self, request: Message) -> Expected:
        """Check the state that a request expects, in the fields `expected_…` that it has."""
        return Expected(
            revision=self._expected("expected_revision", request),
            last_sequence=self._expected("expected_last_sequence", request),
        )

    def _expected(self, field: str, request: Message) -> int | None:
        if field not in request.DESCRIPTOR.fields_by_name or not request.HasField(field):
            return None
        return self.not_negative(field, getattr(request, field))

    def timestamp(self, field: str, message: Message, *, round_up: bool = False) -> datetime | None:
        """Check the timestamp in `field` of `message`; return None if it is not set.

        The result is rounded down to the microsecond, or up.
        """
        if not message.HasField(field):
            return None
        timestamp: Timestamp = getattr(message, field)
        try:
            if 0 <= timestamp.nanos < 1_000_000_000:
                return datetime_from_timestamp(timestamp, round_up=round_up)
        except OverflowError:
            pass
        self.reject(
            field,
            "must be a time in the years 1–9999 with nanos 0–999999999;"
            f" got seconds {timestamp.seconds}, nanos {timestamp.nanos}",
        )
        return None

    def duration(
        self, field: str, message: Message, *, max_seconds: int = MAX_DURATION_SECONDS
    ) -> timedelta | None:
        """Check the duration in `field` of `message`; return None if it is not set."""
        if not message.HasField(field):
            return None
        duration: Duration = getattr(message, field)
        seconds, nanos = duration.seconds, duration.nanos
        if 0 <= nanos < 1_000_000_000 and (0, 0) <= (seconds, nanos) <= (max_seconds, 0):
            return timedelta(seconds=seconds, microseconds=nanos // 1000)
        self.reject(
            field,
            f"must be a duration of 0–{max_seconds} seconds with nanos 0–999999999;"
            f" got seconds {seconds}, nanos {nanos}",
        )
        return None

    def ttl(self, request: ExpiringRequest) -> int | None:
        """Check the `ttl` of a request; return it in microseconds, None if it is not set.

        A TTL above zero, which means none, stays above zero.
        """
        ttl = self.duration("ttl", request, max_seconds=MAX_TTL_SECONDS)
        if ttl is None:
            return None
        return max(ttl // timedelta(microseconds=1), int(bool(request.ttl.nanos)))

    def _short_text(self, field: str, value: str, *, max_characters: int) -> str:
        if len(value) > max_characters:
            self.reject(field, f"must have at most {max_characters} characters; got {len(value)}")
        return self._text(field, value, max_bytes=4 * max_characters)

    def _text(self, field: str, value: str, *, max_bytes: int) -> str:
        if "\0" in value:
            self.reject(field, "must not have a NUL character")
        self._check_bytes(field, value, max_bytes)
        return value

    def _check_bytes(self, field: str, text: str, max_bytes: int, form: str = "") -> None:
        size = len(text)
        if size > max_bytes // 4:  # a character takes up to 4 bytes
            size = len(text.encode())
        if size > max_bytes:
            self.reject(field, f"must have at most {max_bytes} bytes{form}; got {size}")
