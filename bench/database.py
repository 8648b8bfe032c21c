"""The databases that are measured: as many sessions and messages as the scale says."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import psycopg

MESSAGES_A_SESSION = 10
THOUSANDS = [f"thousand-{number:03}" for number in range(100)]
LONGS = ["long-0", "long-1"]
LONG_MESSAGES = 100_000

# A prime: steps of this size visit every session once before they come back.
_STRIDE = 618_034_003

# The default of Palaver's.
LANGUAGE = "-c default_text_search_config=pg_catalog.english"


@dataclass
class Database:
    """A database of a known size.

    Args:
        url: Where it is.
        sessions: How many there are, of 10 messages each; those of 1,000 and 100,000 come on top.
        added: Messages that the measured work has added so far.
    """

    url: str
    sessions: int
    added: int = 0
    _visits: Iterator[int] = field(default_factory=count)

    @property
    def messages(self) -> int:
        """How many the sessions of 10 hold together, as loaded."""
        return self.sessions * MESSAGES_A_SESSION

    @property
    def all_messages(self) -> int:
        """How many there must be by now."""
        special = len(THOUSANDS) * 1_000 + len(LONGS) * LONG_MESSAGES
        return self.messages + special + self.added

    def some_sessions(self, number: int) -> list[str]:
        """Ids spread over all sessions; each time others, until all had their turn."""
        visits = islice(self._visits, min(number, self.sessions))
        return [f"s{visit * _STRIDE % self.sessions:07}" for visit in visits]

    def checkpoint(self) -> None:
        """Has the server write out what was changed; the next change of a page logs it whole."""
        with self.connected() as connection:
            connection.execute("CHECKPOINT")

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Connects for the block, in autocommit mode and in the language of searches."""
        with psycopg.connect(self.url, autocommit=True, options=LANGUAGE) as connection:
            yield connection
