"""Reads: transactions that change nothing, so that any server with the data may run them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar

from palaver_server.database.connection import Connection
from palaver_server.fair_slots import Consumer

T = TypeVar("T")

# Reads over a connection. May be called again, over another connection, if that one is lost.
Work: TypeAlias = Callable[[Connection], Awaitable[T]]


class Reader(Protocol):
    """Runs reads: the pool of the database, or a router between that and a standby."""

    async def read(
        self,
        work: Work[T],
        principal: Consumer | None = None,
        *,
        snapshot: Sequence[str] | None = None,
    ) -> T:
        """Run a read, and return its result.

        Args:
            work: The statements of the read.
            principal: Uses a connection of its share. None: the server itself, which has no share.
            snapshot: Run all statements in one snapshot, in a transaction that these statements
                set up (see `Pool.connection`). None: each statement has a snapshot of its own.

        Raises:
            PalaverError: As `Pool.connection` does.
        """
        ...
