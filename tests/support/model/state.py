"""The objects that the sequential model keeps, and its refusals."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Metadata = dict[str, Any]


class Later(NamedTuple):
    """A number that only the server knows: `least` or more."""

    least: int


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
    revision: int = 1

    def equals(self, other: "Message") -> bool:
        """Return whether an upsert by the other changes nothing."""
        parts = [(m.role, m.content, m.token_count, as_json(m.metadata)) for m in (self, other)]
        return parts[0] == parts[1]


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
    revision: int = 1
    is_deleted: bool = False
    is_restorable: bool = True
    messages: list[Message] = field(default_factory=list)
    deleted_revisions: dict[str, int] = field(default_factory=dict)

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
    revision: int = 1
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


def known(number: Number) -> int:
    """Return a number that an answer of the server has told."""
    assert isinstance(number, int), "no answer has told this yet"
    return number


def as_json(metadata: Metadata) -> str:
    """Return metadata as comparable text: in Python, True equals 1."""
    return json.dumps(metadata, sort_keys=True)
