"""ListAllSessions over more sessions than fit a page by far, while others add and delete."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import Any

import psycopg
import pytest

from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    ListAllSessionsRequest,
)
from tests.support.client import Client

WRITERS = 2


@contextmanager
def busy_writers(palaver: Client, sessions: int) -> Iterator[list[str]]:
    """Adds sessions and deletes some of the old ones in the block; gives the deleted so far."""
    stop = Event()
    deleted: list[str] = []

    def write(first: int) -> None:
        for number in range(first, sessions, 97 * WRITERS):
            if stop.is_set():
                return
            added = f"added {number}"
            palaver.sessions.AddSession(AddSessionRequest(session_id=added))
            palaver.sessions.DeleteSession(DeleteSessionRequest(session_id=str(number)))
            deleted.append(str(number))
            palaver.sessions.DeleteSession(DeleteSessionRequest(session_id=added))
            palaver.sessions.AddSession(AddSessionRequest(session_id=added))

    with ThreadPoolExecutor(WRITERS) as threads:
        writers = [threads.submit(write, writer + 1) for writer in range(WRITERS)]
        try:
            yield deleted
        finally:
            stop.set()
        for writer in writers:
            writer.result()


@pytest.mark.parametrize(("sessions", "newest_first"), [(100_000, False), (20_000, True)])
def test_each_session_is_streamed_exactly_once_although_others_write_and_the_stream_breaks(
    palaver: Client,
    database: psycopg.Connection[tuple[Any, ...]],
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

    assert deleted, "nobody wrote meanwhile"
    assert {str(number) for number in range(1, sessions + 1)} - set(deleted) <= set(seen)
    assert [session_id for session_id, count in seen.items() if count > 1] == []
    assert gone.isdisjoint(seen)
