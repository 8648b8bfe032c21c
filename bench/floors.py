"""The database's floor: plain psycopg in one process, running the SQL of the stores."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg
from psycopg.types.json import Jsonb

from bench import calls
from bench.database import LONGS, Database
from bench.measurement import Round, repeated
from bench.streams import CHUNK_SIZE
from palaver_server.auth.access import EVERYTHING
from palaver_server.database.paging import KeyRange
from palaver_server.store.embedding_queue import NO_QUEUE
from palaver_server.store.memory import INPUT, MemoryStore
from palaver_server.store.message_filter import EVERY_MESSAGE
from palaver_server.store.messages import COLUMNS as MESSAGE_COLUMNS
from palaver_server.store.messages import MessageParts, MessageRow, MessageStore, passing_messages
from palaver_server.store.sessions import COLUMNS as SESSION_COLUMNS
from palaver_server.store.sessions import SessionRow, SessionStore

ADD_MEMORY = MemoryStore.ADD_MEMORY.fill(
    input=INPUT,
    enqueue=NO_QUEUE.enqueue_written,
    is_locked=False,
    create="",
    session="SELECT * FROM existing",
    on_conflict="",
)

_SELECT_SESSIONS = f"SELECT {SESSION_COLUMNS} FROM sessions WHERE deleted_at IS NULL ORDER BY id"  # noqa: S608

_SELECT_MESSAGES = f"""
    SELECT {MESSAGE_COLUMNS} FROM messages m
    WHERE session_id = %(session_id)s AND deleted_at IS NULL ORDER BY sequence
"""  # noqa: S608

_COPY_MESSAGES = """
    COPY messages (session_id, sequence, message_id, role, content, words, token_count, metadata,
        created_at, updated_at) FROM STDIN
"""

_WORDS = "SELECT search_words(%(content)s, 'english')::text"

# Above all existing sequences, so that copied rows can be identified and removed.
_FIRST_COPIED = 1_000_000_000

_REMOVE_COPIED = """
    DELETE FROM messages WHERE session_id = ANY(%(session_ids)s) AND sequence >= %(first)s
"""


def add_memory(database: Database, seconds: float) -> Round:
    """Add one message per transaction (BEGIN to COMMIT) to sessions of the whole database."""
    return _added_memory(database, seconds, lambda connection: connection.transaction())


def add_memory_by_statement(database: Database, seconds: float) -> Round:
    """Add one message per statement in autocommit mode: one round trip instead of three."""
    return _added_memory(database, seconds, lambda _connection: nullcontext())


def _added_memory(
    database: Database,
    seconds: float,
    transaction: Callable[[psycopg.Connection[Any]], AbstractContextManager[object]],
) -> Round:
    session_ids = iter(calls.many(database) * 100)
    with database.connected() as connection:

        def add() -> int:
            parameters = {
                "session_id": next(session_ids), "user_id": None, "access_user_id": None,
                "message_ids": [str(uuid4())], "roles": [calls.ROLE],
                "contents": [calls.CONTENT], "token_counts": [0],
                "metadatas": ['{"lang":"en"}'], "created_ats": [None], "language": "english",
            }  # fmt: skip
            with transaction(connection):
                return len(connection.execute(ADD_MEMORY.sql, parameters).fetchall())

        added = repeated(add, seconds=seconds)
    database.added += added.done
    return added


def copy_messages(database: Database, seconds: float) -> Round:
    """Copy 100 messages into each of 100 sessions with one COPY, which counts as a call."""
    session_ids = database.some_sessions(100)
    sequences = count(_FIRST_COPIED)
    took: list[float] = []
    with database.connected() as connection:
        (words,) = connection.execute(_WORDS, {"content": calls.CONTENT}).fetchone() or ()
        while sum(took) < seconds:
            rows = _rows(session_ids, sequences, words)
            start = time.perf_counter()
            with connection.cursor() as cursor, cursor.copy(_COPY_MESSAGES) as copy:
                for row in rows:
                    copy.write_row(row)
            took.append(time.perf_counter() - start)
        parameters = {"session_ids": session_ids, "first": _FIRST_COPIED}
        connection.execute(_REMOVE_COPIED, parameters)
    return Round.of(100 * len(session_ids) * len(took), took)


def _rows(session_ids: list[str], sequences: "count[int]", words: str) -> list[tuple[Any, ...]]:
    metadata, now = Jsonb(calls.METADATA), datetime.now(UTC)
    values = (calls.ROLE, calls.CONTENT, words, 0, metadata, now, now)
    return [
        (session_id, next(sequences), str(uuid4()), *values)
        for session_id in session_ids
        for _ in range(100)
    ]


def list_sessions(database: Database, seconds: float) -> Round:
    """Fetch all sessions in the pages that ListAllSessions fetches; a page counts as a call."""
    statement = SessionStore.LIST_SESSIONS.fill(
        condition="deleted_at IS NULL", direction=KeyRange().direction
    )
    return _pages(database, statement.sql, {}, lambda row: SessionRow._make(row[1:]).id, seconds)


def list_messages(database: Database, seconds: float) -> Round:
    """Fetch the messages of a long session in the pages that StreamMessages fetches."""
    direction = KeyRange().direction
    parts = MessageParts.of(without_payload=False)
    statement = MessageStore.LIST_MESSAGES.fill(
        passing=passing_messages(EVERYTHING, EVERY_MESSAGE, direction=direction),
        direction=direction,
        columns=parts.columns,
        size=parts.size,
    )
    parameters = {"session_id": LONGS[0], "access_user_id": None}
    return _pages(
        database, statement.sql, parameters, lambda row: MessageRow._make(row[1:]).sequence, seconds
    )


def _pages(
    database: Database,
    statement: str,
    parameters: dict[str, Any],
    position: Callable[[tuple[Any, ...]], int],
    seconds: float,
) -> Round:
    parameters = {**parameters, "limit": CHUNK_SIZE, "after": 0, "before": KeyRange().before}
    with database.connected() as connection:

        def fetch_page() -> int:
            rows = connection.execute(statement, parameters).fetchall()
            has_more = rows[-1][0]
            parameters["after"] = position(rows[-1]) if has_more else 0
            return len(rows)

        return repeated(fetch_page, seconds=seconds)


def select_sessions(database: Database, seconds: float) -> Round:
    """Fetch all sessions with one SELECT, through a server-side cursor."""
    return _selected(database, _SELECT_SESSIONS, {}, seconds)


def select_messages(database: Database, seconds: float) -> Round:
    """Fetch the messages of a long session with one SELECT, through a server-side cursor."""
    return _selected(database, _SELECT_MESSAGES, {"session_id": LONGS[0]}, seconds)


def _selected(
    database: Database, statement: str, parameters: dict[str, Any], seconds: float
) -> Round:
    with database.connected() as connection:

        def select() -> int:
            with connection.transaction(), connection.cursor("bench") as cursor:
                cursor.execute(statement, parameters)
                done = 0
                while rows := cursor.fetchmany(CHUNK_SIZE):
                    done += len(rows)
            return done

        return repeated(select, seconds=seconds)
