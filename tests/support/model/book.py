"""The book of a session: the acknowledged calls of writers that may lose answers.

The service may carry out a call that ended without an answer at any later moment, when a
frozen process resumes. The messages of such an add are *doubtful* from then on: they may be
there, or come back after a delete, so a read checks only that they are there once, and
whole. For the same reason the session is retired once a call that was to delete all its
messages, or the newest, ended without an answer.
"""

from collections.abc import Iterable, Mapping, Sequence

from tests.support.model.expected import BrokenPromise, ExpectedSession, Found, Place

# Sessions are read whole again and again: a session with this many names is replaced.
_MAX_NAMES = 200


def name_of(content: str) -> str:
    """Return the name of the message that has this content: the first word."""
    return content.partition(" ")[0]


class Book(ExpectedSession):
    """The messages of a session, named by the first word of their contents.

    Any number of tasks may write, as long as only one of them changes and deletes messages.

    Attributes:
        retired: Writers must not change the session any more.
        gapless: Nothing was ever deleted from the session.
        acknowledged: The number of acknowledged messages; one added again after a delete counts
            again.
        turns: The number of times that the session may have been created or deleted.
    """

    def __init__(self, session_id: str) -> None:
        self._contents: dict[str, list[str]] = {}
        super().__init__(session_id, known=self._contents.keys())
        self.retired = False
        self.gapless = True
        self.acknowledged = 0
        self.turns = 0
        self._doubtful: set[str] = set()
        self._taken: dict[int, str] = {}

    @property
    def is_full(self) -> bool:
        """Return whether writers should begin another session."""
        return self.retired or self.named + len(self.merged) >= _MAX_NAMES

    @property
    def named(self) -> int:
        """Return the number of messages that there ever were, or may have been."""
        return len(self._contents)

    @property
    def is_certain(self) -> bool:
        """Return whether each message is known to be there or not."""
        return self.live.keys() | self.gone == self._contents.keys() and not self._doubtful

    @property
    def has_doubts(self) -> bool:
        """Return whether a call without an answer may still bring back or change a message."""
        return bool(self._doubtful)

    @property
    def uncertain(self) -> int:
        """Return the number of messages that may be there or not."""
        return len(self._contents.keys() - self.live.keys() - self.gone)

    def content_of(self, name: str) -> str:
        """Return the content that was last sent for a message."""
        return self._contents[name][-1]

    def will_send(self, contents: Iterable[str]) -> int:
        """Record contents before they are sent; return the sequence that new messages exceed."""
        self.turns += not self.exists
        self.exists = self.exists or None
        for content in contents:
            name = name_of(content)
            self.gone.discard(name)
            self._contents.setdefault(name, []).append(content)
        return max(self._taken, default=0)

    def doubt(self, names: Iterable[str]) -> None:
        """Record that an attempt to send these messages had no answer."""
        self._doubtful.update(names)

    def starts_over(self) -> None:
        """Record that the session was created: its sequences may start at 1 again."""
        self._taken.clear()

    def added(self, places: Mapping[str, Place], *, above: int) -> None:
        """Record an acknowledged add, in the order of the request.

        Raises:
            BrokenPromise: New messages have no contiguous sequences above `above`, a message
                moved, or two messages have one sequence.
        """
        new = [place.sequence for name, place in places.items() if name not in self.live]
        if new and (new[0] <= above or new != list(range(new[0], new[0] + len(new)))):
            raise self._broken(f"new messages got {new}, expected contiguous ones above {above}")
        for name, place in places.items():
            if self.live.get(name, place) != place:
                raise self._broken(f"{name} moved from {self.live[name]} to {place}")
            if self._taken.setdefault(place.sequence, name) != name:
                raise self._broken(f"{name} got the sequence of {self._taken[place.sequence]}")
        self.exists = True
        self.acknowledged += len(new)
        self.live |= places

    def will_delete(self, names: Sequence[str]) -> None:
        """Record that these messages may go from now on."""
        self.gapless = False
        for name in names:
            del self.live[name]

    def deleted(self, names: Iterable[str]) -> None:
        """Record an acknowledged delete; doubtful messages stay uncertain."""
        self.gone.update(set(names) - self._doubtful)

    def will_delete_all(self) -> None:
        """Record that the session may go from now on."""
        self.turns += 1
        self.will_delete(list(self.live))
        self.exists = None

    def all_deleted(self) -> None:
        """Record that the session was deleted; retire it if doubtful messages may restore it."""
        self.deleted(self._contents)
        self.exists = None if self._doubtful else False
        self.retired = self.retired or bool(self._doubtful)

    def retire(self) -> None:
        """Let writers change the session no more, because its further state is uncertain."""
        self.retired = True

    def allows(self, found: Found) -> bool:
        """Return whether the message was sent like this, and is where it was acknowledged."""
        contents = self._contents.get(found.name, [])
        certain = found.name in self.live and found.name not in self._doubtful
        return found.content in (contents[-1:] if certain else contents) and super().allows(found)

    def _broken(self, reason: str) -> BrokenPromise:
        return BrokenPromise(f"{self.session_id}: {reason}")
