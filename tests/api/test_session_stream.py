"""SessionService.ListAllSessions: chunks, resuming, and what it holds on to in between."""

from collections.abc import Iterable
from typing import Any

import psycopg
import pytest

from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListAllSessionsResponse,
)
from tests.conftest import StartServer
from tests.support.client import Client, wait_until

MAX_RESPONSE_BYTES = 4 * 1024 * 1024

# More than a stream sends ahead of its reader.
SESSIONS = 1000
ADD_LARGE_SESSIONS = f"""
    INSERT INTO sessions (session_id, metadata)
    SELECT number, jsonb_build_object('text', repeat('x', 20000))
    FROM generate_series(1, {SESSIONS}) AS number
"""

# Connections of the server that list sessions, or did until a moment ago.
BUSY = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%FROM sessions%'
        AND pid <> pg_backend_pid()
        AND (state <> 'idle' OR state_change > clock_timestamp() - interval '300 ms')
"""
IN_TRANSACTION = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
"""


def add_sessions(palaver: Client, *session_ids: str, user_id: str = "") -> None:
    for session_id in session_ids:
        palaver.sessions.AddSession(AddSessionRequest(session_id=session_id, user_id=user_id))


def ids(chunk: ListAllSessionsResponse) -> list[str]:
    return [session.session_id for session in chunk.sessions]


def numbers(chunks: Iterable[ListAllSessionsResponse]) -> list[int]:
    return [int(session_id) for chunk in chunks for session_id in ids(chunk)]


def value(database: psycopg.Connection[tuple[Any, ...]], query: Any) -> Any:
    row = database.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_the_stream_has_all_sessions_in_chunks(palaver: Client) -> None:
    add_sessions(palaver, "e", "a", "d", "b", "c")

    for newest_first, expected in (
        (False, [["e", "a"], ["d", "b"], ["c"]]),
        (True, [["c", "b"], ["d", "a"], ["e"]]),
    ):
        request = ListAllSessionsRequest(chunk_size=2, newest_first=newest_first)
        chunks = list(palaver.sessions.ListAllSessions(request))

        assert [ids(chunk) for chunk in chunks] == expected
        assert all(chunk.next_cursor == chunk.sessions[-1].id for chunk in chunks)


def test_the_stream_of_no_session_has_no_chunk(palaver: Client) -> None:
    add_sessions(palaver, "s")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))

    assert list(palaver.sessions.ListAllSessions(ListAllSessionsRequest())) == []


def test_deleted_sessions_are_never_streamed(palaver: Client) -> None:
    add_sessions(palaver, "a", "b", "c")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="b"))
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="c"))

    chunks = list(palaver.sessions.ListAllSessions(ListAllSessionsRequest()))

    assert [ids(chunk) for chunk in chunks] == [["a"]]


def test_a_chunk_has_100_sessions_by_default(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute("INSERT INTO sessions (session_id) SELECT generate_series(1, 250)")

    chunks = list(palaver.sessions.ListAllSessions(ListAllSessionsRequest()))

    assert [len(chunk.sessions) for chunk in chunks] == [100, 100, 50]


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_cancelled_stream_is_resumed_from_the_cursor_of_any_chunk(
    palaver: Client, *, newest_first: bool
) -> None:
    add_sessions(palaver, *(str(number) for number in range(7)), user_id="u")
    add_sessions(palaver, "other")
    request = ListAllSessionsRequest(
        chunk_size=2, newest_first=newest_first, filter=SessionFilter(user_id="u")
    )
    all_numbers = sorted(range(7), reverse=newest_first)
    stream = palaver.sessions.ListAllSessions(request)
    first, second = next(stream), next(stream)
    stream.cancel()

    for chunk, delivered in ((first, 2), (second, 4)):
        request.cursor = chunk.next_cursor
        rest = numbers(palaver.sessions.ListAllSessions(request))

        assert rest == all_numbers[delivered:]


def test_chunks_of_large_metadata_are_cut_short_and_lose_nothing(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute(ADD_LARGE_SESSIONS)

    chunks = list(palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=1000)))

    assert numbers(chunks) == list(range(1, SESSIONS + 1))
    assert max(chunk.ByteSize() for chunk in chunks) < MAX_RESPONSE_BYTES


def test_a_paused_reader_holds_neither_transaction_nor_connection(
    start_server: StartServer, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    palaver = start_server(pool_max_size=1)
    database.execute(ADD_LARGE_SESSIONS)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))

    first = next(stream)
    wait_until(lambda: value(database, BUSY) == 0)

    assert value(database, IN_TRANSACTION) == 0
    got = palaver.sessions.GetSession(GetSessionRequest(session_id="1"))  # by the one connection
    assert got == first.sessions[0]
    assert numbers([first, *stream]) == list(range(1, SESSIONS + 1))


def test_a_paused_reader_pauses_the_stream(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute(ADD_LARGE_SESSIONS)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))
    first = next(stream)
    wait_until(lambda: value(database, BUSY) == 0)

    # Whoever read on would have these sessions already.
    database.execute("UPDATE sessions SET deleted_at = now() WHERE session_id::integer > 900")

    assert numbers([first, *stream]) == list(range(1, 901))


def test_the_stream_ends_although_writers_go_on_adding(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute(ADD_LARGE_SESSIONS)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))

    chunks = []
    for chunk in stream:
        chunks.append(chunk)
        database.execute(
            "INSERT INTO sessions (session_id, metadata)"
            f" SELECT {len(chunks)} * {SESSIONS} + number,"
            " jsonb_build_object('text', repeat('x', 20000))"
            " FROM generate_series(1, 10) AS number"
        )
        assert len(chunks) <= SESSIONS / 10

    assert numbers(chunks) == list(range(1, SESSIONS + 1))
