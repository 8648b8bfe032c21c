"""The state of a session that a read must find, as far as acknowledged calls tell."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple


class BrokenPromise(AssertionError):
    """The service did or said something that its contract excludes."""


class Place(NamedTuple):
    """The id and the sequence of a message: the service's part of an acknowledgement."""

    message_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Found:
    """A message as a read found it.

    Attributes:
        name: Identifies the message for its writer; its id may come from the service.
    """

    name: str
    place: Place
    content: str = ""


@dataclass(eq=False)
class ExpectedSession:
    """The messages of a session, by name. A name in neither `live` nor `gone` is uncertain.

    Attributes:
        exists: None if unknown.
        live: The messages that must be there.
        gone: The messages that must not be there.
        merged: Keys that the session's metadata must have, with their values.
        known: All names that were ever sent; None if others may be added at any moment.
    """

    session_id: str
    exists: bool | None = False
    live: dict[str, Place] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    merged: dict[str, str] = field(default_factory=dict)
    known: Collection[str] | None = None

    def allows(self, found: Found) -> bool:
        """Return whether the message was sent like this, and is where it was acknowledged."""
        is_known = self.known is None or found.name in self.known
        return is_known and self.live.get(found.name, found.place) == found.place
