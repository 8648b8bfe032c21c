"""The ledger of a run: everything that callers were told, and the broken promises."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING

import grpc

from tests.support.model.book import Book
from tests.support.model.expected import BrokenPromise
from tests.support.model.presence import Presence

if TYPE_CHECKING:
    from chaos.household import Household

StatusCode = grpc.StatusCode

# A call that ended with one of these may have been carried out, or may be later.
NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})

# Calls may end with these while servers and the database come and go; callers retry them.
FOR_NOW = NO_ANSWER | {StatusCode.RESOURCE_EXHAUSTED}

# Calls that may refuse what the caller can predict.
_REFUSALS = frozenset(
    {
        StatusCode.NOT_FOUND,
        StatusCode.ALREADY_EXISTS,
        StatusCode.ABORTED,
        StatusCode.INVALID_ARGUMENT,
    }
)

# Calls that may end with NOT_FOUND too; the books tell whether that is right.
_MAY_FIND_NOTHING = frozenset(
    {
        "GetSession",
        "GetMemory",
        "ListMessages",
        "StreamMessages",
        "GetMessage",
        "SearchMemory",
    }
)


class Ledger:
    """Everything that callers were told.

    Attributes:
        sessions: All sessions, the oldest first.
        users: All users, the oldest first.
        books: The books of the sessions that have many writers.
        households: The sessions and users that have one caller, who knows their states.
        given_up: The number of households whose states became too uncertain.
        calls: The number of calls, by RPC and status code.
        faults: The number of faults, by kind.
        broken: The promises that the service broke, one description each.
    """

    def __init__(self, run: str) -> None:
        self.sessions: list[Presence] = []
        self.users: list[Presence] = []
        self.books: list[Book] = []
        self.households: list[Household] = []
        self.given_up = 0
        self.calls: Counter[tuple[str, StatusCode]] = Counter()
        self.faults: Counter[str] = Counter()
        self.broken: list[str] = []
        self._stopping = 0
        self._stopped_at = 0.0
        self._run = run
        self._numbers = itertools.count(1)

    def open_book(self) -> Book:
        """Add a book for a new session, and return it."""
        book = Book(self.new_session())
        self.books.append(book)
        return book

    def new_session(self) -> Presence:
        """Return a new session."""
        return self._new("session", self.sessions)

    def new_user(self) -> Presence:
        """Return a new user."""
        return self._new("user", self.users)

    def _new(self, kind: str, others: list[Presence]) -> Presence:
        presence = Presence(f"{kind}-{self._run}-{len(others)}")
        others.append(presence)
        return presence

    def new_name(self) -> str:
        """Return a word that names nothing else."""
        return f"m{next(self._numbers)}"

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Record that a server stops in the block."""
        self._stopping += 1
        try:
            yield
        finally:
            self._stopping -= 1
            self._stopped_at = time.monotonic()

    def called(
        self, rpc: str, code: StatusCode, *, predicted: bool = False, heedless_since: float = inf
    ) -> None:
        """Record how a call ended.

        Args:
            rpc: The name of the RPC.
            code: The status code.
            predicted: The caller compares refusals with those that it predicted.
            heedless_since: The time when the call began, if its channel ignores the health of
                servers. While a server stops, gRPC ends calls that arrive with CANCELLED
                (https://github.com/grpc/grpc/issues/41785).

        Raises:
            BrokenPromise: The call must not end like this.
        """
        self.calls[rpc, code] += 1
        met_a_stop = heedless_since < (inf if self._stopping else self._stopped_at)
        may_be_cancelled = code is StatusCode.CANCELLED and met_a_stop
        may_find_nothing = code is StatusCode.NOT_FOUND and rpc in _MAY_FIND_NOTHING
        expected = {StatusCode.OK, *FOR_NOW} - {StatusCode.CANCELLED}
        if predicted:
            expected |= _REFUSALS
        if not (code in expected or may_be_cancelled or may_find_nothing):
            raise BrokenPromise(f"{rpc} ended with {code.name}")

    @contextmanager
    def keeps(self) -> Iterator[None]:
        """Record a promise that is broken in the block, and let the run continue."""
        try:
            yield
        except BrokenPromise as broken:
            self.broken.append(f"{datetime.now(UTC):%H:%M:%S.%f} {broken}")
