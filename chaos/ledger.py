"""The ledger of a run: the books of all sessions, the calls by status, and what went wrong."""

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

# After these nobody knows whether a call was carried out, or still will be.
NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED, StatusCode.CANCELLED})

# What calls may end with while servers and the database come and go; they are made again.
FOR_NOW = NO_ANSWER | {StatusCode.RESOURCE_EXHAUSTED}

# Calls that may end with NOT_FOUND beside OK and those: whether it is right then, the books
# know. Those that are not named here, such as AddMemory, may not end with anything else.
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
    """All that callers were told.

    Attributes:
        books: Of all sessions, the oldest first.
        users: Whether each user exists; None if that is not known.
        calls: How many ended how, by RPC and status code.
        faults: How many of each kind there were.
        broken: The promises that the service broke, in words.
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
        """Begins another session."""
        book = Book(f"session-{self._run}-{len(self.books)}")
        self.books.append(book)
        return book

    def new_user(self) -> str:
        """Gives the id of another user."""
        user_id = f"user-{self._run}-{len(self.users)}"
        self.users[user_id] = False
        return user_id

    def new_name(self) -> str:
        """Gives a word that nothing else is named with."""
        return f"m{next(self._numbers)}"

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Notes that a server is told to stop, and does so, in the block."""
        self._stopping += 1
        try:
            yield
        finally:
            self._stopping -= 1
            self._stopped_at = time.monotonic()

    def called(self, rpc: str, code: StatusCode, *, heedless_since: float = inf) -> None:
        """Notes how a call ended.

        Args:
            rpc: Its name.
            code: What it ended with.
            heedless_since: When it began, if its caller did not heed the health of the server.
                In the instant in which this stops, gRPC has calls that reach it end as if they
                were cancelled (https://github.com/grpc/grpc/issues/41785).

        Raises:
            BrokenPromise: It never may end so.
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
        """Notes it if the service breaks a promise in the block, and has the run go on."""
        try:
            yield
        except BrokenPromise as broken:
            self.broken.append(f"{datetime.now(UTC):%H:%M:%S.%f} {broken}")
