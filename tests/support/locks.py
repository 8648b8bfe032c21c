"""Locks held by another connection."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg

from tests.support.concurrency import Connection


@contextmanager
def locked(database_url: str, session_id: str = "s") -> Iterator[Connection]:
    """Hold the row lock of a session for the block, or until the connection commits."""
    with closing(psycopg.connect(database_url)) as connection:
        query = "SELECT FROM sessions WHERE session_id = %s FOR UPDATE"
        assert connection.execute(query, [session_id]).rowcount == 1
        yield connection
