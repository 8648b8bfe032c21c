"""The ledger of a run: the books of all sessions, the calls by status, and the broken promises."""

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from math import inf

import grpc

from tests.support.model.book import Book
from tests.support.model.expected import BrokenPromise

StatusCode = grpc.StatusCode

# A call that ended with one of these may have been carried out, or may be later.
NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})

# Calls may end with these while servers and the database come and go; callers retry them.
FOR_NOW = NO_ANSWER | {StatusCode.RESOURCE_EXHAUSTED}

# Calls that may end with NOT_FOUND too; the books tell whether that is right. Other calls, such
# as AddMemory, must not.
_MAY_FIND_NOTHING = frozenset(
    {
        "UpdateSession",
        "GetSession",
        "DeleteSession",
        "DeleteMemory",
        "GetMemory",
        "ListMessages",
        "StreamMessages",
        "GetMessage",
        "UpdateMessage",
        "DeleteMessages",
        "SearchMemory",
        "GetUser",
        "DeleteUser",
    }
)


class Ledger:
    """Everything that callers were told.

    Attributes:
        books: The books of all sessions, the oldest first.
        users: Whether each user exists; None if unknown.
        calls: The number of calls, by RPC and status code.
        faults: The number of faults, by kind.
        broken: The promises that the service broke, one description each.
    """

    def __init__(self, run: str) -> None:
        self.books: list[Book] = []
        self.users: dict[str, bool | None] = {}
        self.calls: Counter[tuple[str, StatusCode]] = Counter()
        self.faults: Counter[str] = Counter()
        self.broken: list[str] = []
        self._stopping = 0
        self._stopped_at = 0.0
        self._run = run
        self._numbers = itertools.count(1)

    def open_book(self) -> Book:
        """Add a book for a new session, and return it."""
        book = Book(f"session-{self._run}-{len(self.books)}")
        self.books.append(book)
        return book

    def new_user(self) -> str:
        """Return the id of a new user."""
        user_id = f"user-{self._run}-{len(self.users)}"
        self.users[user_id] = False
        return user_id

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

    def called(self, rpc: str, code: StatusCode, *, heedless_since: float = inf) -> None:
        """Record how a call ended.

        Args:
            rpc: The name of the RPC.
            code: The status code.
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
        if not (code in expected or may_be_cancelled or may_find_nothing):
            raise BrokenPromise(f"{rpc} ended with {code.name}")

    @contextmanager
    def keeps(self) -> Iterator[None]:
        """Record a promise that is broken in the block, and let the run continue."""
        try:
            yield
        except BrokenPromise as broken:
            self.broken.append(f"{datetime.now(UTC):%H:%M:%S.%f} {broken}")
