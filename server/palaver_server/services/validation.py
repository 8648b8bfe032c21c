"""The rules for the fields of requests, as the `.proto` files state them."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from palaver_server.errors import FieldViolation, InvalidRequest
from palaver_server.services.encoding.metadata import json_from_object, object_from_struct
from palaver_server.services.encoding.timestamps import datetime_from_timestamp

MAX_ID_BYTES = 1024
MAX_EMAIL_BYTES = 320
MAX_NAME_CHARACTERS = 256
MAX_ROLE_CHARACTERS = 64
MAX_ROLES = 100
MAX_CONTENT_BYTES = 1024 * 1024
MAX_METADATA_BYTES = 64 * 1024
MAX_METADATA_LEVELS = 32
MAX_PATH_BYTES = 4096
MAX_ITEMS = 1000
MAX_RESPONSE_BYTES = 4 * 1024 * 1024  # what gRPC clients accept by default
DEFAULT_LIMIT = 100
MAX_DURATION_SECONDS = 315_576_000_000  # 10,000 years, protobuf's own limit


class Fields:
    """Checks the fields of a request, and names all the bad ones at once.

    Used as a context manager: each method checks one field and gives its value as the
    stores take it; at the end of the block, InvalidRequest is raised if any was bad.
    What a method gives for a bad field is of no use.

    Args:
        path: Where the fields are in the request, such as `messages[2].`.
    """

    def __init__(self, path: str = "") -> None:
        self._path = path
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
        """Notes that a field is bad, and why."""
        self._violations.append(FieldViolation(self._path + field, description))

    def at(self, path: str) -> "Fields":
        """Gives a checker for the fields of a message inside; what it rejects counts here."""
        inner = Fields(f"{self._path}{path}.")
        inner._violations = self._violations
        return inner

    def id(self, field: str, value: str) -> str:
        """An id that must be given."""
        if not value:
            self.reject(field, "is required")
        return self._text(field, value, max_bytes=MAX_ID_BYTES)

    def optional_id(self, field: str, value: str) -> str | None:
        """An id that may be empty."""
        return self.id(field, value) if value else None

    def ids(self, field: str, values: Iterable[str]) -> list[str]:
        """Several ids."""
        return [self.id(f"{field}[{index}]", value) for index, value in enumerate(values)]

    def role(self, field: str, value: str) -> str:
        """The role of a message."""
        if not value:
            self.reject(field, "is required")
        return self._short_text(field, value, max_characters=MAX_ROLE_CHARACTERS)

    def email(self, field: str, value: str) -> str:
        """The address of a user; whether it is one, nobody asks."""
        return self._text(field, value, max_bytes=MAX_EMAIL_BYTES)

    def name(self, field: str, value: str) -> str:
        """A name of a user."""
        return self._short_text(field, value, max_characters=MAX_NAME_CHARACTERS)

    def roles(self, field: str, values: Sequence[str]) -> Sequence[str]:
        """Several roles."""
        if len(values) > MAX_ROLES:
            self.reject(field, f"are {len(values):,} in number; at most {MAX_ROLES}")
            return ()
        return [self.role(f"{field}[{index}]", value) for index, value in enumerate(values)]

    def content(self, field: str, value: str) -> str:
        """The content of a message."""
        return self._text(field, value, max_bytes=MAX_CONTENT_BYTES)

    def path(self, field: str, value: str) -> str | None:
        """A SQL/JSON path; whether it is one, the database says."""
        return self._text(field, value, max_bytes=MAX_PATH_BYTES) or None

    def metadata(self, field: str, message: Message) -> str:
        """The metadata in `field` of `message`, as JSON; an empty object if not given."""
        return self.metadata_json(field, self.metadata_patch(field, message) or {})

    def metadata_patch(self, field: str, message: Message) -> dict[str, Any] | None:
        """The metadata in `field` of `message`, as plain Python; None if not given."""
        if not message.HasField(field):
            return None
        struct: Struct = getattr(message, field)
        try:
            return object_from_struct(struct, max_levels=MAX_METADATA_LEVELS)
        except ValueError as error:
            self.reject(field, str(error))
            return {}

    def metadata_json(self, field: str, metadata: dict[str, Any]) -> str:
        """Metadata as JSON."""
        text = json_from_object(metadata)
        self._check_bytes(field, text, MAX_METADATA_BYTES, " as JSON")
        return text

    def limit(
        self, field: str, value: int, *, default: int = DEFAULT_LIMIT, most: int = MAX_ITEMS
    ) -> int:
        """How many items to return."""
        if value == 0:
            return default
        if not 1 <= value <= most:
            self.reject(field, f"is {value}; from 1 to {most:,}, or 0 for {default}")
        return value

    def count(self, field: str, value: int) -> int:
        """How many items are given or meant; at least one."""
        if not 1 <= value <= MAX_ITEMS:
            self.reject(field, f"is {value:,} in number; from 1 to {MAX_ITEMS:,}")
        return value

    def fraction(self, field: str, value: float) -> float:
        """A number from 0 to 1."""
        if not 0 <= value <= 1:  # nor is NaN
            self.reject(field, f"is {value:g}; from 0 to 1")
        return value

    def not_negative(self, field: str, value: int) -> int:
        """A count or position."""
        if value < 0:
            self.reject(field, f"is {value}; not negative")
        return value

    def timestamp(self, field: str, message: Message, *, round_up: bool = False) -> datetime | None:
        """The time in `field` of `message`, to the microsecond; None if not given."""
        if not message.HasField(field):
            return None
        timestamp: Timestamp = getattr(message, field)
        try:
            if 0 <= timestamp.nanos < 1_000_000_000:
                return datetime_from_timestamp(timestamp, round_up=round_up)
        except OverflowError:
            pass
        self.reject(field, "is no valid time; from year 1 to 9999, nanos from 0 to 999,999,999")
        return None

    def duration(self, field: str, message: Message) -> timedelta | None:
        """The duration in `field` of `message`, not negative; None if not given."""
        if not message.HasField(field):
            return None
        duration: Duration = getattr(message, field)
        seconds, nanos = duration.seconds, duration.nanos
        if 0 <= nanos < 1_000_000_000 and (0, 0) <= (seconds, nanos) <= (MAX_DURATION_SECONDS, 0):
            return timedelta(seconds=seconds, microseconds=nanos // 1000)
        self.reject(field, "is no valid duration; not negative, at most 10,000 years")
        return None

    def _short_text(self, field: str, value: str, *, max_characters: int) -> str:
        if len(value) > max_characters:
            self.reject(field, f"has {len(value):,} characters; at most {max_characters}")
        return self._text(field, value, max_bytes=4 * max_characters)

    def _text(self, field: str, value: str, *, max_bytes: int) -> str:
        if "\0" in value:
            self.reject(field, "has a NUL character")
        self._check_bytes(field, value, max_bytes)
        return value

    def _check_bytes(self, field: str, text: str, max_bytes: int, form: str = "") -> None:
        size = len(text)
        if size > max_bytes // 4:  # a character takes up to 4 bytes
            size = len(text.encode())
        if size > max_bytes:
            self.reject(field, f"has {size:,} bytes{form}; at most {max_bytes:,}")
