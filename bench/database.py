"""The measured databases: the scale sets their number of sessions and messages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import psycopg

MESSAGES_PER_SESSION = 10
THOUSANDS = [f"thousand-{number:03}" for number in range(100)]
LONGS = ["long-0", "long-1"]
LONG_MESSAGES = 100_000

# A prime: steps of this size visit every session once before they come back.
_STRIDE = 618_034_003


@dataclass
class Database:
    """A database of a known size.

    Args:
        url: Its connection URL.
        sessions: Number of sessions of 10 messages, without those of 1,000 and 100,000.
        added: Messages that the measured work has added so far.
    """

    url: str
    sessions: int
    added: int = 0
    _visits: Iterator[int] = field(default_factory=count)

    @property
    def messages(self) -> int:
        """The number of messages loaded into the sessions of 10 messages."""
        return self.sessions * MESSAGES_PER_SESSION

    @property
    def all_messages(self) -> int:
        """The number of messages that the database must hold now, added ones included."""
        special = len(THOUSANDS) * 1_000 + len(LONGS) * LONG_MESSAGES
        return self.messages + special + self.added

    def some_sessions(self, number: int) -> list[str]:
        """Return ids spread over all sessions; no id repeats before every session was returned."""
        visits = islice(self._visits, min(number, self.sessions))
        return [f"s{visit * _STRIDE % self.sessions:07}" for visit in visits]

    def checkpoint(self) -> None:
        """Checkpoint: the next change of each page writes a full-page image to the WAL."""
        with self.connected() as connection:
            connection.execute("CHECKPOINT")

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Connect for the block, in autocommit mode."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            yield connection
