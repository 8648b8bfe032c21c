"""A read of a session, checked against its expected state before and after the read."""

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from tests.support.model.expected import BrokenPromise, ExpectedSession
from tests.support.model.state import Message


class Reading:
    """Checks a read that begins now and may overlap with writes.

    Every method raises BrokenPromise if its check fails.

    Args:
        expected: Callers may change it during the read.
        rpc: The name of the RPC that reads.
    """

    def __init__(self, expected: ExpectedSession, rpc: str) -> None:
        self._expected = expected
        self._rpc = rpc
        self._existed = expected.exists
        self._live = set(expected.live)
        self._gone = set(expected.gone)
        self._merged = dict(expected.merged)

    def check_listing(
        self, found: Sequence[Message], *, after: float = 0, until: float = inf
    ) -> None:
        """Check that these are all messages between two sequences, each once, in order."""
        self.check_possible(found)
        sequences = [message.sequence for message in found]
        if sequences != sorted(set(sequences)):
            raise self._broken(f"out of order, or a sequence twice: {sequences}")
        live = self._expected.live
        for name in self._live & live.keys() - set(map(self._expected.name_of, found)):
            if after < live[name].sequence <= until:
                raise self._broken(f"{name} is missing, {live[name]}")

    def check_possible(self, found: Iterable[Message]) -> None:
        """Check that each of these may be there as it was found, in any order, and once."""
        self.check_may_exist()
        names: set[str] = set()
        for message in found:
            name = self._expected.name_of(message)
            if name in names:
                raise self._broken(f"{name} is there twice")
            if name in self._gone & self._expected.gone:
                raise self._broken(f"the deleted message {name} is back")
            if not self._expected.allows(name, message):
                raise self._broken(f"never acknowledged like this: {message}")
            names.add(name)

    def check_message(self, name: str, found: Sequence[Message]) -> None:
        """Check a read of one message by name, which found it or nothing."""
        if found:
            self.check_possible(found)
        elif name in self._live & self._expected.live.keys():
            raise self._broken(f"{name} is not found, {self._expected.live[name]}")

    def check_metadata(self, metadata: Mapping[str, object]) -> None:
        """Check that the session's metadata has every acknowledged key."""
        self.check_may_exist()
        for key, value in self._merged.items():
            if metadata.get(key) != value:
                raise self._broken(f"the acknowledged metadata {key} is missing")

    def check_may_exist(self) -> None:
        """Check a read that found the session."""
        if self._existed is False and self._expected.exists is False:
            raise self._broken("the session was deleted, and was found")

    def check_may_be_missing(self) -> None:
        """Check a read that did not find the session."""
        if self._existed and self._expected.exists:
            raise self._broken("the session exists, and was not found")

    def _broken(self, reason: str) -> BrokenPromise:
        return BrokenPromise(f"{self._rpc} of {self._expected.session_id}: {reason}")
