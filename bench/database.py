"""The databases that are measured: as many sessions and messages as the scale says."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from bench import text
from server.store.migrate import migrate

MESSAGES_A_SESSION = 10
THOUSANDS = [f"thousand-{number:03}" for number in range(100)]
LONGS = ["long-0", "long-1"]
LONG_MESSAGES = 100_000

_SESSIONS_A_STATEMENT = 100_000

# A prime: steps of this size visit every session once before they come back.
_STRIDE = 618_034_003

# The default of Palaver's.
_LANGUAGE = "-c default_text_search_config=pg_catalog.english"

_LOAD_SESSIONS = """
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence)
    SELECT 's' || lpad(n::text, 7, '0'), 'u' || n %% 1000,
        jsonb_build_object('plan', (ARRAY['free', 'pro', 'team'])[1 + n %% 3], 'turns', n,
            'tags', jsonb_build_object('lang', 'en', 'city', 'Lagos')),
        %(messages)s
    FROM generate_series(%(first)s::integer, %(last)s::integer) n
"""

# Each of a user of its own.
_LOAD_SESSION = """
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence)
    VALUES (%(session_id)s, %(session_id)s, '{"plan": "pro", "tags": {"lang": "en"}}', %(messages)s)
"""

_LOAD_USERS = """
    INSERT INTO users (user_id) SELECT DISTINCT user_id FROM sessions WHERE user_id IS NOT NULL
"""

_CREATE_SENTENCES = """
    CREATE TEMPORARY TABLE sentences AS
        SELECT number - 1 AS number, text, search_words(text) AS words
        FROM unnest(%(sentences)s::text[]) WITH ORDINALITY AS texts (text, number)
"""

# In the order of the keys, which is the fastest for their indexes.
_LOAD_MESSAGES = """
    INSERT INTO messages (session_id, sequence, message_id, role, content, words, metadata)
    SELECT session_id, sequence, 'm' || sequence, (ARRAY['assistant', 'user'])[1 + sequence %% 2],
        one.text || ' ' || other.text, one.words || other.words, '{"lang": "en"}'
    FROM (
        SELECT n %% %(messages)s::integer + 1 AS sequence,
            coalesce(nullif(%(session_id)s, ''), 's' || lpad((n / %(messages)s)::text, 7, '0'))
                AS session_id,
            hashtextextended(%(session_id)s, n) AS hash
        FROM generate_series(
            %(first)s::integer * %(messages)s,
            (%(last)s::integer + 1) * %(messages)s - 1
        ) n
    ) numbered
        JOIN sentences one ON one.number = abs(hash %% %(sentences)s)
        JOIN sentences other ON other.number = abs(hash / %(sentences)s %% %(sentences)s)
"""


_SPAN = {
    "first": 0, "last": 0, "messages": MESSAGES_A_SESSION, "session_id": "",
    "sentences": text.SENTENCES,
}  # fmt: skip


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

    @contextmanager
    def connected(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """Connects for the block, in autocommit mode and in the language of searches."""
        with psycopg.connect(self.url, autocommit=True, options=_LANGUAGE) as connection:
            yield connection


def create(server_url: str, name: str, sessions: int, progress: Callable[[str], None]) -> Database:
    """Creates and fills a database.

    Args:
        server_url: Any database of the server.
        name: That of the new one.
        sessions: How many of 10 messages it is to have.
        progress: Told what is done next.
    """
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    database = Database(make_conninfo(server_url, dbname=name), sessions)
    asyncio.run(migrate(database.url))
    with database.connected() as connection:
        connection.execute(_CREATE_SENTENCES, {"sentences": list(text.sentences())})
        connection.execute("ANALYZE sentences")
        _load_sessions(connection, sessions, lambda line: progress(f"{name}: {line}"))
        progress(f"{name}: loading the sessions of 1,000 and of {LONG_MESSAGES:,} messages")
        for messages, session_ids in ((1_000, THOUSANDS), (LONG_MESSAGES, LONGS)):
            for session_id in session_ids:
                _load_session(connection, session_id, messages)
        connection.execute(_LOAD_USERS)
        progress(f"{name}: VACUUM ANALYZE")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return database


def _load_sessions(
    connection: psycopg.Connection[tuple[Any, ...]],
    sessions: int,
    progress: Callable[[str], None],
) -> None:
    for first in range(0, sessions, _SESSIONS_A_STATEMENT):
        progress(f"{first:,} of {sessions:,} sessions loaded")
        last = min(first + _SESSIONS_A_STATEMENT, sessions) - 1
        span = {**_SPAN, "first": first, "last": last}
        connection.execute(_LOAD_SESSIONS, span)
        connection.execute(_LOAD_MESSAGES, span)


def _load_session(
    connection: psycopg.Connection[tuple[Any, ...]], session_id: str, messages: int
) -> None:
    of_one = {**_SPAN, "messages": messages, "session_id": session_id}
    connection.execute(_LOAD_SESSION, of_one)
    connection.execute(_LOAD_MESSAGES, of_one)
