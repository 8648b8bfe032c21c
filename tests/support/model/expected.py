"""The state of a session that a read must find, as far as acknowledged calls tell."""

from collections.abc import Collection
from dataclasses import dataclass, field

from tests.support.model.presence import Presence
from tests.support.model.state import Message, Metadata


class BrokenPromise(AssertionError):
    """The service did or said something that its contract excludes."""


def unique_name(message: Message) -> str:
    """Return a name that no other message has: an id may come again after a delete or a purge."""
    return f"{message.message_id} ({message.sequence}, created at {message.created_at})"


@dataclass(eq=False)
class ExpectedSession:
    """The messages of a session, by name. A name in neither `live` nor `gone` is uncertain.

    Attributes:
        live: The messages that must be there.
        gone: The messages that must not be there.
        merged: Keys that the session's metadata must have, with their values.
        known: All names that were ever sent; None if others may be added at any moment.
    """

    presence: Presence
    live: dict[str, Message] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    merged: Metadata = field(default_factory=dict)
    known: Collection[str] | None = None

    @property
    def session_id(self) -> str:
        return self.presence.name

    @property
    def exists(self) -> bool | None:
        """Return whether the session exists; None if unknown."""
        return self.presence.exists

    def name_of(self, message: Message) -> str:
        """Return the name of a message."""
        return unique_name(message)

    def allows(self, name: str, found: Message) -> bool:  # noqa: ARG002 - for subclasses
        """Return whether a read may find a message like this."""
        return self.known is None or name in self.known
