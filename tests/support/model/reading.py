"""A read of a session, held against its book as it is before and after."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from tests.support.model.book import Book, BrokenPromise, Found


class Reading:
    """Checks a read that begins now and that may run while others write.

    Args:
        rpc: By which it reads.
    """

    def __init__(self, book: Book, rpc: str) -> None:
        self._book = book
        self._rpc = rpc
        self._existed = book.exists
        self._live = set(book.live)
        self._gone = set(book.gone)
        self._merged = dict(book.merged)

    def lists(self, found: Sequence[Found], *, after: float = 0, until: float = inf) -> None:
        """Checks that these are all messages between two sequences, each once, in order.

        Raises:
            BrokenPromise: They are not.
        """
        self.includes(found)
        sequences = [one.place.sequence for one in found]
        if sequences != sorted(sequences):
            raise self._broken(f"out of order: {sequences}")
        names = {one.name for one in found}
        for name in self._live & self._book.live.keys() - names:
            if after < self._book.live[name].sequence <= until:
                raise self._broken(f"{name} is missing, at {self._book.live[name]}")

    def includes(self, found: Iterable[Found]) -> None:
        """Checks that these may be there, in whatever order.

        Raises:
            BrokenPromise: One may not be, or not as it is, or is there twice.
        """
        self.finds_it()
        names: set[str] = set()
        for one in found:
            if one.name in names:
                raise self._broken(f"{one.name} is there twice")
            if one.name in self._gone & self._book.gone:
                raise self._broken(f"the deleted message {one.name} is back")
            if not self._book.knows(one):
                raise self._broken(f"never so acknowledged: {one}")
            names.add(one.name)

    def finds(self, name: str, found: Sequence[Found]) -> None:
        """Checks that this is what is there of one message.

        Raises:
            BrokenPromise: It is not.
        """
        if found:
            self.includes(found)
        elif name in self._live & self._book.live.keys():
            raise self._broken(f"{name} is not found, at {self._book.live[name]}")

    def has(self, metadata: Mapping[str, object]) -> None:
        """Checks that the session's metadata are these.

        Raises:
            BrokenPromise: A merge that was acknowledged is lost.
        """
        self.finds_it()
        for key, value in self._merged.items():
            if metadata.get(key) != value:
                raise self._broken(f"the acknowledged metadata {key} is missing")

    def finds_it(self) -> None:
        """Checks that the session may be there.

        Raises:
            BrokenPromise: It was deleted before.
        """
        if self._existed is False and self._book.exists is False:
            raise self._broken("it is deleted, and there")

    def finds_nothing(self) -> None:
        """Checks that the session may be gone.

        Raises:
            BrokenPromise: It is there.
        """
        if self._existed and self._book.exists:
            raise self._broken("it is there, and was not found")

    def _broken(self, what: str) -> BrokenPromise:
        return BrokenPromise(f"{self._rpc} of {self._book.session_id}: {what}")
