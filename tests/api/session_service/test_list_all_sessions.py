"""SessionService.ListAllSessions: chunks, resuming, and the resources a stream holds."""

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import pytest

from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListAllSessionsResponse
from tests.conftest import StartServer
from tests.support.client import MAX_RESPONSE_BYTES, Client, wait_until
from tests.support.concurrency import Connection

# More than gRPC buffers for a reader.
SESSIONS = 1000
ADD_LARGE_SESSIONS = f"""
    INSERT INTO sessions (session_id, metadata)
    SELECT number, jsonb_build_object('text', repeat('x', 20000))
    FROM generate_series(1, {SESSIONS}) AS number
"""


def ids(chunk: ListAllSessionsResponse) -> list[str]:
    return [session.session_id for session in chunk.sessions]


def numbers(chunks: Iterable[ListAllSessionsResponse]) -> list[int]:
    return [int(session_id) for chunk in chunks for session_id in ids(chunk)]


# --- Contract ----------------------------------------------------------------------------------


def test_list_all_sessions_chunks_hold_all_sessions_in_order(palaver: Client) -> None:
    palaver.add_sessions("e", "a", "d", "b", "c")

    for newest_first, expected in (
        (False, [["e", "a"], ["d", "b"], ["c"]]),
        (True, [["c", "b"], ["d", "a"], ["e"]]),
    ):
        request = ListAllSessionsRequest(chunk_size=2, newest_first=newest_first)
        chunks = list(palaver.sessions.ListAllSessions(request))

        assert [ids(chunk) for chunk in chunks] == expected
        assert all(chunk.next_cursor == chunk.sessions[-1].id for chunk in chunks)


def test_list_all_sessions_without_sessions_sends_no_chunk(palaver: Client) -> None:
    palaver.add_sessions("s")
    palaver.delete_session("s")

    assert palaver.list_all_sessions() == []


def test_list_all_sessions_deleted_sessions_are_left_out(palaver: Client) -> None:
    palaver.add_sessions("a", "b", "c")
    palaver.delete_session("b")
    palaver.delete_session("c")

    chunks = palaver.list_all_sessions()

    assert [ids(chunk) for chunk in chunks] == [["a"]]


@pytest.mark.parametrize("newest_first", [False, True])
def test_list_all_sessions_cancelled_stream_resumes_from_any_cursor(
    palaver: Client, *, newest_first: bool
) -> None:
    palaver.add_sessions(*(str(number) for number in range(7)), user_id="u")
    palaver.add_sessions("other")
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


# --- Limits ------------------------------------------------------------------------------------


def test_list_all_sessions_chunks_default_to_100(palaver: Client, database: Connection) -> None:
    database.execute("INSERT INTO sessions (session_id) SELECT generate_series(1, 250)")

    chunks = palaver.list_all_sessions()

    assert [len(chunk.sessions) for chunk in chunks] == [100, 100, 50]


def test_list_all_sessions_chunks_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    database.execute(ADD_LARGE_SESSIONS)

    chunks = palaver.list_all_sessions(chunk_size=1000)

    assert numbers(chunks) == list(range(1, SESSIONS + 1))
    assert max(chunk.ByteSize() for chunk in chunks) < MAX_RESPONSE_BYTES


# --- Concurrency -------------------------------------------------------------------------------


# Connections of the server that list sessions, or did within the last 300 ms.
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


def value(database: Connection, query: Any) -> Any:
    row = database.execute(query).fetchone()
    assert row is not None
    return row[0]


def test_list_all_sessions_paused_reader_holds_no_transaction_or_connection(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(pool_max_size=1)
    database.execute(ADD_LARGE_SESSIONS)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))

    first = next(stream)
    wait_until(lambda: value(database, BUSY) == 0)

    assert value(database, IN_TRANSACTION) == 0
    got = palaver.get_session("1")  # over the only connection
    assert got == first.sessions[0]
    assert numbers([first, *stream]) == list(range(1, SESSIONS + 1))


def test_list_all_sessions_paused_reader_pauses_stream(
    palaver: Client, database: Connection
) -> None:
    database.execute(ADD_LARGE_SESSIONS)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))
    first = next(stream)
    wait_until(lambda: value(database, BUSY) == 0)

    # A stream that is not paused would have read these sessions already.
    database.execute("UPDATE sessions SET deleted_at = now() WHERE session_id::integer > 900")

    assert numbers([first, *stream]) == list(range(1, 901))


def test_list_all_sessions_ends_while_writers_keep_adding(
    palaver: Client, database: Connection
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


WRITERS = 2


@contextmanager
def busy_writers(palaver: Client, sessions: int) -> Iterator[list[str]]:
    """Add sessions and delete old ones during the block; yield the ids deleted so far."""
    stop = Event()
    deleted: list[str] = []

    def write(first: int) -> None:
        for number in range(first, sessions, 97 * WRITERS):
            if stop.is_set():
                return
            added = f"added {number}"
            palaver.add_session(added)
            palaver.delete_session(str(number))
            deleted.append(str(number))
            palaver.delete_session(added)
            palaver.add_session(added)

    with ThreadPoolExecutor(WRITERS) as threads:
        writers = [threads.submit(write, writer + 1) for writer in range(WRITERS)]
        try:
            yield deleted
        finally:
            stop.set()
        for writer in writers:
            writer.result()


@pytest.mark.slow
@pytest.mark.parametrize(("sessions", "newest_first"), [(100_000, False), (20_000, True)])
def test_list_all_sessions_broken_streams_during_writes_return_each_session_once(
    palaver: Client,
    database: Connection,
    sessions: int,
    *,
    newest_first: bool,
) -> None:
    database.execute(f"INSERT INTO sessions (session_id) SELECT generate_series(1, {sessions})")
    request = ListAllSessionsRequest(chunk_size=1000, newest_first=newest_first)
    seen: Counter[str] = Counter()

    with busy_writers(palaver, sessions) as deleted:
        stream = palaver.sessions.ListAllSessions(request)
        for chunk in stream:
            seen.update(session.session_id for session in chunk.sessions)
            if len(seen) > sessions / 2:
                break
        stream.cancel()
        request.cursor = chunk.next_cursor
        gone = set(deleted) - set(seen)
        for chunk in palaver.sessions.ListAllSessions(request):
            seen.update(session.session_id for session in chunk.sessions)

    assert deleted, "nothing was written during the stream"
    assert {str(number) for number in range(1, sessions + 1)} - set(deleted) <= set(seen)
    assert [session_id for session_id, count in seen.items() if count > 1] == []
    assert gone.isdisjoint(seen)
