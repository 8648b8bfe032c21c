"""The book of a session: the acknowledged calls of writers that may lose answers.

The service may carry out a call that ended without an answer at any later moment, when a
frozen process resumes. The messages of such an add are *doubtful* from then on: they may be
there, or come back after a delete, so a read checks only that they are there once, and
whole.
"""

from collections.abc import Iterable, Mapping, Sequence

from tests.support.model.expected import BrokenPromise, ExpectedSession
from tests.support.model.presence import Presence
from tests.support.model.state import Message

# Sessions are read whole again and again: a session with this many names is replaced.
_MAX_NAMES = 200


def name_in(content: str) -> str:
    """Return the name of the message that has this content: the first word."""
    return content.partition(" ")[0]


class Book(ExpectedSession):
    """The messages of a session, named by the first word of their contents.

    Any number of tasks may write, as long as only one of them deletes messages, and none the
    session or changes a message.

    Attributes:
        gapless: Nothing was ever deleted from the session.
        acknowledged: The number of acknowledged messages.
    """

    def __init__(self, presence: Presence) -> None:
        self._sent: dict[str, Message] = {}
        super().__init__(presence, known=self._sent.keys())
        self.gapless = True
        self.acknowledged = 0
        self._doubtful: set[str] = set()
        self._taken: dict[int, str] = {}

    @property
    def is_full(self) -> bool:
        """Return whether writers should begin another session."""
        return self.named + len(self.merged) >= _MAX_NAMES

    @property
    def named(self) -> int:
        """Return the number of messages that there ever were, or may have been."""
        return len(self._sent)

    @property
    def is_certain(self) -> bool:
        """Return whether each message is known to be there or not."""
        return self.live.keys() | self.gone == self._sent.keys() and not self._doubtful

    @property
    def uncertain(self) -> int:
        """Return the number of messages that may be there or not."""
        return len(self._sent.keys() - self.live.keys() - self.gone)

    @property
    def last_sequence(self) -> int:
        """Return the greatest sequence that is known to be taken."""
        return max(self._taken, default=0)

    def name_of(self, message: Message) -> str:
        """Return the first word of a message."""
        return name_in(message.content)

    def will_send(self, messages: Iterable[Message]) -> int:
        """Record new messages before they are sent; return the sequence that theirs exceed."""
        self.presence.exists = self.exists or None
        self._sent |= {self.name_of(message): message for message in messages}
        return self.last_sequence

    def doubt(self, names: Iterable[str]) -> None:
        """Record that an attempt to send these messages had no answer."""
        self._doubtful.update(names)

    def added(self, messages: Mapping[str, Message], *, above: int) -> None:
        """Record acknowledged messages by name, in the order of the request.

        Raises:
            BrokenPromise: They have no contiguous sequences above `above`, or one has the
                sequence of another message.
        """
        new = [message.sequence for message in messages.values()]
        if new[0] <= above or new != list(range(new[0], new[0] + len(new))):
            raise self._broken(f"new messages got {new}, expected contiguous ones above {above}")
        for name, message in messages.items():
            if self._taken.setdefault(message.sequence, name) != name:
                raise self._broken(f"{name} got the sequence of {self._taken[message.sequence]}")
        self.presence.exists = True
        self.acknowledged += len(new)
        self.live |= messages

    def will_delete(self, names: Sequence[str]) -> None:
        """Record that these messages may go from now on."""
        self.gapless = False
        for name in names:
            del self.live[name]

    def record_gone(self, names: Iterable[str]) -> None:
        """Record that messages were deleted or refused; doubtful ones stay uncertain."""
        self.gone.update(set(names) - self._doubtful)

    def allows(self, name: str, found: Message) -> bool:
        """Return whether the message was sent like this, and is where it was acknowledged."""
        if name not in self._sent:
            return False
        expected = self.live.get(name, self._sent[name])
        if name in self._doubtful:  # it may have been deleted and added again
            expected = self._sent[name]
        return expected.agrees_with(found)

    def _broken(self, reason: str) -> BrokenPromise:
        return BrokenPromise(f"{self.session_id}: {reason}")
