"""The book of a session: what callers were told of it, and whether what they read agrees.

A call that ended without an answer may be carried out at any later moment, when a frozen
process wakes: what it was to add is *doubtful* from then on. It may be there, or may come
back after a delete, and only that it is there once, and whole, is checked. For the same
reason a session is used no more once a call that was to delete all or the last of it had
no answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Sessions are read whole again and again: with this much in one, another one is begun.
_FULL = 200


class BrokenPromise(AssertionError):
    """The service did or said what it never may."""


class Place(NamedTuple):
    """Where a message is: the service's part of an acknowledgement."""

    message_id: str
    sequence: int


@dataclass(frozen=True, slots=True)
class Found:
    """A message as a read found it. The first word of its content is its name."""

    place: Place
    content: str

    @property
    def name(self) -> str:
        """What its writer calls it, whatever id the server gave it."""
        return name_of(self.content)


def name_of(content: str) -> str:
    """Gives the name of the message that has this content."""
    return content.partition(" ")[0]


class Book:
    """What is known about a session and its messages, by their names.

    Any number of tasks may keep it, as long as one alone changes and deletes what it names.

    Attributes:
        exists: None if that is not known.
        live: Acknowledged, and not deleted since.
        gone: Deleted for certain.
        retired: No more calls that change it may be made.
        gapless: Nothing was ever deleted from it.
        merged: The session's metadata that was acknowledged.
        acknowledged: How many messages were, those added again after a delete too.
        turns: How often it may have come or gone so far.
    """

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.exists: bool | None = False
        self.live: dict[str, Place] = {}
        self.gone: set[str] = set()
        self.retired = False
        self.gapless = True
        self.merged: dict[str, str] = {}
        self.acknowledged = 0
        self.turns = 0
        self._contents: dict[str, list[str]] = {}
        self._doubtful: set[str] = set()
        self._taken: dict[int, str] = {}

    @property
    def is_full(self) -> bool:
        """Whether it is time to begin another session."""
        return self.retired or self.named + len(self.merged) >= _FULL

    @property
    def named(self) -> int:
        """How many messages there ever were, or may have been."""
        return len(self._contents)

    @property
    def is_certain(self) -> bool:
        """Whether it is known of every message whether it is there."""
        return self.live.keys() | self.gone == self._contents.keys() and not self._doubtful

    @property
    def has_doubts(self) -> bool:
        """Whether a message may come back, or change, by a call that had no answer."""
        return bool(self._doubtful)

    @property
    def uncertain(self) -> int:
        """How many messages are there or not, for all that is known."""
        return len(self._contents.keys() - self.live.keys() - self.gone)

    def content_of(self, name: str) -> str:
        """Gives the content that a message was last given."""
        return self._contents[name][-1]

    def will_send(self, contents: Iterable[str]) -> int:
        """Notes what is going to be sent; gives the sequence that new messages must exceed."""
        self.turns += not self.exists
        self.exists = self.exists or None
        for content in contents:
            name = name_of(content)
            self.gone.discard(name)
            self._contents.setdefault(name, []).append(content)
        return max(self._taken, default=0)

    def doubt(self, names: Iterable[str]) -> None:
        """Notes that an attempt to send these had no answer."""
        self._doubtful.update(names)

    def starts_over(self) -> None:
        """Notes that the session was created: sequences of before may come again."""
        self._taken.clear()

    def added(self, places: Mapping[str, Place], *, above: int) -> None:
        """Notes what was acknowledged, in the order of the request."""
        new = [place.sequence for name, place in places.items() if name not in self.live]
        if new and (new[0] <= above or new != list(range(new[0], new[0] + len(new)))):
            raise self._broken(f"new messages got {new}, which are to be contiguous above {above}")
        for name, place in places.items():
            if self.live.get(name, place) != place:
                raise self._broken(f"{name} moved from {self.live[name]} to {place}")
            if self._taken.setdefault(place.sequence, name) != name:
                raise self._broken(f"{name} got the sequence of {self._taken[place.sequence]}")
        self.exists = True
        self.acknowledged += len(new)
        self.live |= places

    def will_delete(self, names: Sequence[str]) -> None:
        """Notes that these may go from now on."""
        self.gapless = False
        for name in names:
            del self.live[name]

    def deleted(self, names: Iterable[str]) -> None:
        """Notes that these are gone, as far as that is certain."""
        self.gone.update(set(names) - self._doubtful)

    def will_delete_all(self) -> None:
        """Notes that the session may go from now on."""
        self.turns += 1
        self.will_delete(list(self.live))
        self.exists = None

    def all_deleted(self) -> None:
        """Notes that the session is gone; where that is not certain, it is used no more."""
        self.deleted(self._contents)
        self.exists = None if self._doubtful else False
        self.retired = self.retired or bool(self._doubtful)

    def retire(self) -> None:
        """Has it used no more, because what will become of it is not certain."""
        self.retired = True

    def knows(self, found: Found) -> bool:
        """Tells whether the message is as it was sent, and placed as acknowledged."""
        contents = self._contents.get(found.name, [])
        certain = found.name in self.live and found.name not in self._doubtful
        return (
            found.content in (contents[-1:] if certain else contents)
            and self.live.get(found.name, found.place) == found.place
        )

    def _broken(self, what: str) -> BrokenPromise:
        return BrokenPromise(f"{self.session_id}: {what}")
