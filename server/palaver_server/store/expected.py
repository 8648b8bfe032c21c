"""Optimistic concurrency: the state that a caller expects a row to be in before a write."""

from typing import NamedTuple

from palaver_server.errors import StaleLastSequence, StaleRevision

NONE_LIVE = 0  # the revision of what is absent or deleted


class Expected(NamedTuple):
    """The state that a caller expects; None: any.

    Attributes:
        revision: The revision; NONE_LIVE: nothing live has the ID.
        last_sequence: The last sequence of the session.
    """

    revision: int | None = None
    last_sequence: int | None = None

    def check(self, *, revision: int, last_sequence: int = 0) -> None:
        """Compare with the actual state, read under the lock that the write holds.

        Raises:
            StaleRevision: The revision is another one.
            StaleLastSequence: The last sequence is another one.
        """
        if self.revision not in (None, revision):
            raise StaleRevision(expected=self.revision, actual=revision)
        if self.last_sequence not in (None, last_sequence):
            raise StaleLastSequence(expected=self.last_sequence, actual=last_sequence)


ANY = Expected()
