"""The objects that the sequential model keeps, and its refusals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Metadata = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Later:
    """A number that only the server knows: `least` or more."""

    least: int

    def __add__(self, number: int) -> "Later":
        return Later(self.least + number)


Number = int | Later

NOT_GIVEN = Later(0)


@dataclass
class Message:
    """A live message. Times are in nanoseconds. The server replaces an empty id."""

    message_id: str
    role: str
    content: str = ""
    metadata: Metadata = field(default_factory=dict)
    token_count: int = 0
    sequence: int = 0
    created_at: Number = NOT_GIVEN
    updated_at: Number = NOT_GIVEN
    revision: Number = 1
    payload: bytes = b""
    payload_type: str = ""

    def equals(self, other: "Message") -> bool:
        """Return whether an upsert by the other changes nothing."""
        parts = [
            (m.role, m.content, m.token_count, as_json(m.metadata), m.payload, m.payload_type)
            for m in (self, other)
        ]
        return parts[0] == parts[1]

    def agrees_with(self, found: "Message") -> bool:
        """Return whether this may be the found message; an id or a place may not be known yet."""
        return (
            self.equals(found)
            and self.message_id in {"", found.message_id}
            and self.sequence in {0, found.sequence}
        )


@dataclass
class Session:
    """A session that is live, or was deleted and waits for the purge."""

    session_id: str
    user_id: str
    metadata: Metadata
    id: Number
    created_at: Number
    updated_at: Number
    last_sequence: int = 0
    revision: Number = 1
    is_deleted: bool = False
    is_restorable: bool = True
    ttl: int | None = None  # in microseconds
    expires_at: Number | None = None
    messages: list[Message] = field(default_factory=list)
    deleted_revisions: dict[str, Number] = field(default_factory=dict)

    def find(self, message_id: str) -> Message | None:
        """Return the live message with this id, if there is one."""
        return next((m for m in self.messages if m.message_id == message_id), None)

    def delete(self, messages: Sequence[Message]) -> None:
        """Delete these messages."""
        self.deleted_revisions |= {one.message_id: one.revision + 1 for one in messages}
        self.messages = [message for message in self.messages if message not in messages]


@dataclass
class User:
    """A live user: a placeholder until it is complete."""

    user_id: str
    id: Number
    created_at: Number
    updated_at: Number
    revision: Number = 1
    is_complete: bool = False
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    metadata: Metadata = field(default_factory=dict)


class Refused(Exception):
    """The service must refuse the call."""


class NotFound(Refused):
    """NOT_FOUND. Its arguments are the kind and the id of the missing resource."""


class AlreadyExists(Refused):
    """ALREADY_EXISTS. Its arguments are the kind and the id of the existing resource."""


class Invalid(Refused):
    """INVALID_ARGUMENT. Its argument is the field."""


class Stale(Refused):
    """ABORTED. Its arguments are the name of the value, the expected and the actual one."""


class Untold(Exception):
    """The answer depends on a number that no answer of the server has told yet."""


def known(number: Number) -> int:
    """Return a number that an answer of the server has told."""
    if isinstance(number, Later):
        raise Untold(number)
    return number


def as_json(metadata: Metadata) -> str:
    """Return metadata as comparable text: in Python, True equals 1."""
    return json.dumps(metadata, sort_keys=True)
