"""What the model of the service keeps, and how it refuses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Metadata = dict[str, Any]


class Later(NamedTuple):
    """A number that only the server knows: `least` or more, or else still `or_still`."""

    least: int
    or_still: int | None = None


Number = int | Later

NOT_GIVEN = Later(0)


@dataclass
class Message:
    """A live message. Times are in nanoseconds. An empty id is one that the server makes up."""

    message_id: str
    role: str
    content: str = ""
    metadata: Metadata = field(default_factory=dict)
    token_count: int = 0
    sequence: int = 0
    created_at: Number = NOT_GIVEN
    updated_at: Number = NOT_GIVEN

    def says_the_same_as(self, other: "Message") -> bool:
        """Whether an upsert by the other would change nothing."""
        parts = [(m.role, m.content, m.token_count, as_json(m.metadata)) for m in (self, other)]
        return parts[0] == parts[1]


@dataclass
class Session:
    """A session that is there, or was deleted and waits for the purge."""

    session_id: str
    user_id: str
    metadata: Metadata
    id: Number
    created_at: Number
    updated_at: Number
    last_sequence: int = 0
    is_deleted: bool = False
    is_forgotten: bool = False
    messages: list[Message] = field(default_factory=list)
    deleted_ids: set[str] = field(default_factory=set)

    def find(self, message_id: str) -> Message | None:
        """The live message of this id."""
        return next((m for m in self.messages if m.message_id == message_id), None)

    def delete(self, messages: Sequence[Message]) -> None:
        """Deletes some of the messages."""
        self.deleted_ids |= {message.message_id for message in messages}
        self.messages = [message for message in self.messages if message not in messages]


@dataclass
class User:
    """A live user. Bare: not filled in."""

    user_id: str
    id: Number
    created_at: Number
    updated_at: Number
    is_filled_in: bool = False
    email: str = ""
    first_name: str = ""
    last_name: str = ""
    metadata: Metadata = field(default_factory=dict)


class Refused(Exception):
    """The answer is an error."""


class NotFound(Refused):
    """Names the kind and the id of what is missing."""


class AlreadyExists(Refused):
    """Names the kind and the id of what is there."""


class Stale(Refused):
    """Gives the last sequence that was expected, and the one that the session has."""


def known(number: Number) -> int:
    """A number that the server must have told by now."""
    assert isinstance(number, int), "no answer has told this yet"
    return number


def as_json(metadata: Metadata) -> str:
    """Metadata as something to compare: Python itself takes True for 1."""
    return json.dumps(metadata, sort_keys=True)
