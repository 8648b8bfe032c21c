"""The purge's SQL: removes soft-deleted rows for good."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from palaver_server.database.backlog import Backlog
from palaver_server.database.connection import Connection
from palaver_server.database.pool import Pool
from palaver_server.database.timestamps import as_datetime

# Far enough to reach no row, near enough for the time to have a date in Python.
_LONGEST_AGE = timedelta(days=365 * 2000)


class PurgeStore:
    """Gives turns at purging.

    Raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # One purger at a time over all servers of a schema. A lock of the session, not of
    # a transaction: it spans batches, and goes with the connection if the server dies.
    TAKE_TURN = (
        "SELECT pg_try_advisory_lock(hashtextextended('palaver purge ' || current_schema(), 0))"
    )
    END_TURN = (
        "SELECT pg_advisory_unlock(hashtextextended('palaver purge ' || current_schema(), 0))"
    )

    CUTOFF = "SELECT statement_timestamp() - %(older_than)s::interval"

    async def cutoff(self, older_than: timedelta) -> datetime:
        """Gets the time before which a row must have been deleted, by the database's clock."""
        parameters = {"older_than": min(older_than, _LONGEST_AGE)}
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.CUTOFF, parameters)
        (cutoff,) = row or ()
        return as_datetime(cutoff)

    # Costs no more than the rows that it counts, each found by the index of the purge.
    BACKLOG = " UNION ALL ".join(
        f"""
        SELECT '{table}', count(*), extract(epoch FROM %(before)s - min(deleted_at))::float8
        FROM (
            SELECT deleted_at FROM {table} WHERE deleted_at <= %(before)s
            ORDER BY deleted_at LIMIT %(limit)s
        ) waiting
        """
        for table in ("messages", "sessions", "users")
    )

    async def backlog(self, before: datetime, *, limit: int) -> dict[str, Backlog]:
        """Counts the rows of each kind that were deleted at `before` or earlier, up to `limit`."""
        parameters = {"before": before, "limit": limit}
        async with self._pool.connection() as connection:
            counted = await connection.fetch(self.BACKLOG, parameters)
            return {kind: Backlog(rows, age or 0) for kind, rows, age in counted}

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["PurgeTurn | None"]:
        """Takes the turn to purge for the block, or gives None while another purger has it."""
        async with self._pool.connection() as connection:
            try:
                row = await connection.fetch_one(self.TAKE_TURN)
                taken = row is not None and row[0]
                yield PurgeTurn(connection) if taken else None
                if taken:
                    await connection.fetch(self.END_TURN)
            except BaseException:
                # Whether the turn is taken or ended may be unknown: it ends with this.
                await connection.close()
                raise


class PurgeTurn:
    """The purge of one purger. Each method is one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def batches(self) -> dict[str, Callable[..., Awaitable[int]]]:
        """What removes a batch of each kind of row, in the order in which they must go."""
        return {
            "messages": self.purge_messages,
            "sessions": self.purge_sessions,
            "users": self.purge_users,
        }

    MEASURE = """
        SELECT (SELECT count(*) FROM messages WHERE deleted_at <= %(before)s),
            (SELECT count(*) FROM sessions WHERE deleted_at <= %(before)s),
            (SELECT count(*) FROM users WHERE deleted_at <= %(before)s)
    """

    async def measure(self, before: datetime) -> dict[str, int]:
        """Counts the rows of each kind that were deleted at `before` or earlier.

        However long it takes: where there is that much to remove, it must begin some time.
        """
        async with self._connection.transaction():
            await self._connection.execute("SET LOCAL statement_timeout = 0")
            counts = await self._connection.fetch_one(self.MEASURE, {"before": before})
            return dict(zip(self.batches, counts or (), strict=True))

    # What somebody brings back at this moment is locked, and skipped; what came back
    # before this statement locked it is deleted no more, and not chosen.
    PURGE_MESSAGES = """
        DELETE FROM messages WHERE (session_id, sequence) IN (
            SELECT session_id, sequence FROM messages
            WHERE deleted_at <= %(before)s
            ORDER BY deleted_at
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
    """

    async def purge_messages(self, before: datetime, *, limit: int) -> int:
        """Removes at most `limit` messages deleted at `before` or earlier; returns how many."""
        parameters = {"before": before, "limit": limit}
        return (await self._connection.execute(self.PURGE_MESSAGES, parameters)).rowcount

    CHOOSE_SESSIONS = """
        SELECT session_id FROM sessions s
        WHERE deleted_at <= %(before)s
            AND NOT EXISTS (SELECT FROM messages m WHERE m.session_id = s.session_id)
        ORDER BY deleted_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    """

    # Asks for messages again, in a statement that begins when the sessions are locked:
    # one may have been brought back and deleted while the first one waited. A session
    # goes after its messages, or its sequences would start over among theirs.
    PURGE_SESSIONS = """
        DELETE FROM sessions s
        WHERE session_id = ANY(%(session_ids)s)
            AND NOT EXISTS (SELECT FROM messages m WHERE m.session_id = s.session_id)
    """

    async def purge_sessions(self, before: datetime, *, limit: int) -> int:
        """Removes at most `limit` sessions deleted at `before` or earlier; returns how many.

        Sessions that still have messages, live or deleted, stay.
        """
        async with self._connection.transaction():
            parameters = {"before": before, "limit": limit}
            rows = await self._connection.fetch(self.CHOOSE_SESSIONS, parameters)
            session_ids = [row[0] for row in rows]
            cursor = await self._connection.execute(
                self.PURGE_SESSIONS, {"session_ids": session_ids}
            )
            return cursor.rowcount

    # As with messages, somebody may start the user anew at this moment. Sessions that are
    # left of it are forgotten: they do not need it.
    PURGE_USERS = """
        DELETE FROM users WHERE user_id IN (
            SELECT user_id FROM users
            WHERE deleted_at <= %(before)s
            ORDER BY deleted_at
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
    """

    async def purge_users(self, before: datetime, *, limit: int) -> int:
        """Removes at most `limit` users deleted at `before` or earlier; returns how many."""
        parameters = {"before": before, "limit": limit}
        return (await self._connection.execute(self.PURGE_USERS, parameters)).rowcount
