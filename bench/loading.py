"""Fill the measured databases."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier

from bench import text
from bench.database import LONG_MESSAGES, LONGS, MESSAGES_PER_SESSION, THOUSANDS, Database
from palaver_server.database.migrate import migrate

_SESSIONS_PER_STATEMENT = 100_000

# The last messages of each session are inserted after all others, in _TURNS passes: a pass visits
# every _TURNS-th session. Inserts in key order fill index pages to nine tenths; after these the
# pages are about as full as random inserts leave them.
_LATE_MESSAGES = 3
_TURNS = 10

_LOAD_SESSIONS = """
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence)
    SELECT 's' || lpad(n::text, 7, '0'), 'u' || n %% 1000,
        jsonb_build_object('plan', (ARRAY['free', 'pro', 'team'])[1 + n %% 3], 'turns', n,
            'tags', jsonb_build_object('lang', 'en', 'city', 'Lagos')),
        %(last_sequence)s
    FROM generate_series(%(first)s::integer, %(last)s::integer) n
"""

# Each of these sessions has a user of its own.
_LOAD_SESSION = """
    INSERT INTO sessions (session_id, user_id, metadata, last_sequence)
    VALUES (
        %(session_id)s, %(session_id)s, '{"plan": "pro", "tags": {"lang": "en"}}',
        %(last_sequence)s
    )
"""

_RAISE_LAST_SEQUENCES = """
    UPDATE sessions SET last_sequence = %(last_sequence)s, updated_at = now()
    FROM generate_series(%(first)s::integer, %(last)s::integer, %(step)s::integer) n
    WHERE session_id = 's' || lpad(n::text, 7, '0')
"""

_LOAD_USERS = """
    INSERT INTO users (user_id) SELECT DISTINCT user_id FROM sessions WHERE user_id IS NOT NULL
"""

_CREATE_SENTENCES = """
    CREATE TEMPORARY TABLE sentences AS
        SELECT number - 1 AS number, text, search_words(text, 'english') AS words
        FROM unnest(%(sentences)s::text[]) WITH ORDINALITY AS texts (text, number)
"""

# All messages are numbered session by session. Inserting in this order, which is that of the
# keys, is the fastest for the indexes.
_LOAD_MESSAGES = """
    INSERT INTO messages (session_id, sequence, message_id, role, content, words, metadata)
    SELECT session_id, sequence, 'm' || sequence, (ARRAY['assistant', 'user'])[1 + sequence %% 2],
        one.text || ' ' || other.text, one.words || other.words, '{"lang": "en"}'
    FROM (
        SELECT n %% %(messages)s::integer + 1 AS sequence,
            coalesce(nullif(%(session_id)s, ''), 's' || lpad((n / %(messages)s)::text, 7, '0'))
                AS session_id,
            hashtextextended(%(session_id)s, n) AS hash
        FROM generate_series(%(first)s::integer, %(last)s::integer, %(step)s::integer) session,
            generate_series(
                session * %(messages)s + %(after)s, session * %(messages)s + %(last_sequence)s - 1
            ) n
    ) numbered
        JOIN sentences one ON one.number = abs(hash %% %(sentences)s)
        JOIN sentences other ON other.number = abs(hash / %(sentences)s %% %(sentences)s)
"""

_WARM_UP = """
    SELECT pg_prewarm(oid) FROM (
        SELECT oid FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')
        ORDER BY pg_relation_size(oid) DESC
    ) largest_first
"""


def create(server_url: str, name: str, sessions: int, progress: Callable[[str], None]) -> Database:
    """Create and fill a database, and leave it in the state of one in use.

    Each session has received messages since the last checkpoint, some time after its neighbours.
    Tables and indexes are cached as far as memory allows. The file system has no pending writes
    that commits would have to wait for.

    Args:
        server_url: Any database of the server.
        name: Name of the new database.
        sessions: Number of sessions of 10 messages.
        progress: Called with a description of each step.
    """
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
    database = Database(make_conninfo(server_url, dbname=name), sessions)
    asyncio.run(migrate(database.url))
    with database.connected() as connection:
        connection.execute(_CREATE_SENTENCES, {"sentences": list(text.sentences())})
        connection.execute("ANALYZE sentences")
        load = _Load(connection, sessions, lambda line: progress(f"{name}: {line}"))
        load.sessions()
        load.long_sessions()
        load.users()
        load.vacuum()
        database.checkpoint()
        load.late_messages()
        load.vacuum()
        load.warm_up()
    os.sync()
    return database


@dataclass(frozen=True, slots=True)
class _Load:
    """The steps that fill a database."""

    connection: psycopg.Connection[tuple[Any, ...]]
    count: int  # of sessions
    progress: Callable[[str], None]

    def sessions(self) -> None:
        """Load the sessions of 10 messages, without the late messages of each."""
        early = range(MESSAGES_PER_SESSION - _LATE_MESSAGES)
        for first in range(0, self.count, _SESSIONS_PER_STATEMENT):
            self.progress(f"{first:,} of {self.count:,} sessions loaded")
            sessions = range(first, min(first + _SESSIONS_PER_STATEMENT, self.count))
            self._run(_LOAD_SESSIONS, sessions, early)
            self._run(_LOAD_MESSAGES, sessions, early)

    def late_messages(self) -> None:
        """Add the late messages to the sessions of 10."""
        self.progress(f"adding the last {_LATE_MESSAGES} messages of each session")
        late = range(MESSAGES_PER_SESSION - _LATE_MESSAGES, MESSAGES_PER_SESSION)
        for turn in range(_TURNS):
            sessions = range(turn, self.count, _TURNS)
            self._run(_RAISE_LAST_SEQUENCES, sessions, late)
            self._run(_LOAD_MESSAGES, sessions, late)

    def long_sessions(self) -> None:
        """Load the sessions of 1,000 and of 100,000 messages."""
        self.progress(f"loading the sessions of 1,000 and of {LONG_MESSAGES:,} messages")
        for messages, session_ids in ((1_000, THOUSANDS), (LONG_MESSAGES, LONGS)):
            for session_id in session_ids:
                self._run(_LOAD_SESSION, range(1), range(messages), session_id)
                self._run(_LOAD_MESSAGES, range(1), range(messages), session_id)

    def users(self) -> None:
        """Load the users of all sessions."""
        self.connection.execute(_LOAD_USERS)

    def vacuum(self) -> None:
        """Vacuum now, so that autovacuum does not run during the measurement."""
        self.progress("VACUUM ANALYZE")
        self.connection.execute("VACUUM ANALYZE")

    def warm_up(self) -> None:
        """Read all relations into memory, the smallest last, so that eviction spares them."""
        self.progress("reading it into memory")
        self.connection.execute("CREATE EXTENSION pg_prewarm")
        self.connection.execute(_WARM_UP)

    def _run(self, statement: str, sessions: range, messages: range, session_id: str = "") -> None:
        """Run a statement for some messages of some sessions, by their numbers from 0.

        With a session id, run it for that session only.
        """
        parameters = {
            "first": sessions.start, "last": sessions.stop - 1, "step": sessions.step,
            "after": messages.start, "last_sequence": messages.stop,
            "messages": messages.stop if session_id else MESSAGES_PER_SESSION,
            "session_id": session_id, "sentences": text.SENTENCES,
        }  # fmt: skip
        self.connection.execute(statement, parameters)
