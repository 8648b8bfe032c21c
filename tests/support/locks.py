"""Locks held by another connection."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import LiteralString

import psycopg

from tests.support.concurrency import Connection


@contextmanager
def locked(database_url: str, session_id: str = "s") -> Iterator[Connection]:
    """Hold the row lock of a session for the block, or until the connection commits."""
    with closing(psycopg.connect(database_url)) as connection:
        query = "SELECT FROM sessions WHERE session_id = %s FOR UPDATE"
        assert connection.execute(query, [session_id]).rowcount == 1
        yield connection


_TAKE_LEASE: LiteralString = """
    INSERT INTO purge_lease (holder, expires_at) VALUES ('another', now() + interval '1 minute')
    ON CONFLICT (is_only) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
"""

_ASKED_FOR_LEASE = """
    SELECT query_start FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%purge_lease%'
"""


def take_purge_lease(database: Connection) -> None:
    """Take the turn to purge, as another server does."""
    database.execute(_TAKE_LEASE)


def end_purge_lease(database: Connection) -> None:
    """Let the turn to purge expire."""
    database.execute("UPDATE purge_lease SET expires_at = now()")


def has_purge_lease(database: Connection) -> bool:
    """Tell whether a purger has the turn."""
    return bool(database.execute("SELECT FROM purge_lease WHERE expires_at > now()").fetchall())


def lease_requests(database: Connection) -> set[object]:
    """Return when purgers last asked for the turn."""
    return {time for (time,) in database.execute(_ASKED_FOR_LEASE)}
