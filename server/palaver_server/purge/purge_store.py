"""The SQL of the purge: permanently removes soft-deleted rows."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from palaver_server.database.backlog import Backlog
from palaver_server.database.connection import Connection
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement
from palaver_server.database.timestamps import as_datetime
from palaver_server.store.expiry import DELETE_EXPIRED, DELETE_NOW, delete_locked
from palaver_server.store.liveness import EXPIRED_SESSION, LIVE_SESSION

# Longer ages would give a cutoff before the year 1, which a Python datetime cannot hold.
_MAX_AGE = timedelta(days=365 * 2000)

# After a crash, the next purge waits for this long. A batch may take longer: while it runs, it
# locks the row of the lease.
LEASE_DURATION = timedelta(seconds=60)


class PurgeStore:
    """The backlog of the purge, and the turn to purge it.

    Raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    CUTOFF = Statement(
        "purge.get_cutoff", "SELECT statement_timestamp() - %(older_than)s::interval"
    )

    async def cutoff(self, older_than: timedelta) -> datetime:
        """Return the time before which rows must have been deleted, by the database's clock."""
        parameters = {"older_than": min(older_than, _MAX_AGE)}
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.CUTOFF, parameters)
        (cutoff,) = row or ()
        return as_datetime(cutoff)

    # Reads only the rows that it counts: an index on `deleted_at` finds them.
    BACKLOG = Statement(
        "purge.backlog",
        " UNION ALL ".join(
            f"""
        SELECT '{table}', count(*), extract(epoch FROM %(before)s - min(deleted_at))::float8
        FROM (
            SELECT deleted_at FROM {table} WHERE deleted_at <= %(before)s
            ORDER BY deleted_at LIMIT %(limit)s
        ) waiting
        """
            for table in ("messages", "sessions", "users")
        ),
    )

    async def backlog(self, before: datetime, *, limit: int) -> dict[str, Backlog]:
        """Count the rows of each kind that were deleted at `before` or earlier, up to `limit`."""
        parameters = {"before": before, "limit": limit}
        async with self._pool.connection() as connection:
            counted = await connection.fetch(self.BACKLOG, parameters)
            return {kind: Backlog(rows, age or 0) for kind, rows, age in counted}

    # One purger at a time among all servers of a schema has the lease. No lock of the database
    # session: it would need a connection for the whole purge, which a transaction pooler cannot
    # give.
    # NOT EXISTS: ON CONFLICT waits for a batch of another purger, which updates the row.
    ADD_LEASE = Statement(
        "purge.add_lease",
        """
        INSERT INTO purge_lease (expires_at)
        SELECT '-infinity' WHERE NOT EXISTS (SELECT 1 FROM purge_lease)
        ON CONFLICT DO NOTHING
    """,
    )

    # SKIP LOCKED: the batch of another purger that takes longer than its lease holds the row.
    # BETWEEN: a lease that would last longer than any does was given before the clock was set back.
    TAKE_LEASE = Statement(
        "purge.take_lease",
        """
        UPDATE purge_lease
        SET holder = %(holder)s, expires_at = statement_timestamp() + %(duration)s::interval
        WHERE is_only IN (
            SELECT is_only FROM purge_lease
            WHERE expires_at NOT BETWEEN statement_timestamp()
                AND statement_timestamp() + %(duration)s::interval
            FOR UPDATE SKIP LOCKED
        )
    """,
    )

    END_LEASE = Statement(
        "purge.end_lease",
        "UPDATE purge_lease SET expires_at = '-infinity' WHERE holder = %(holder)s",
    )

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["PurgeTurn | None"]:
        """Take the turn to purge for the block; None if another purger has it."""
        turn = PurgeTurn(self._pool, uuid.uuid4().hex)
        lease = {"holder": turn.holder, "duration": LEASE_DURATION}
        is_taken = True  # a cancelled statement may have taken it
        try:
            async with self._pool.connection() as connection:
                await connection.run(self.ADD_LEASE)
                is_taken = bool(await connection.run(self.TAKE_LEASE, lease))
            yield turn if is_taken else None
        finally:
            if is_taken:
                async with self._pool.connection() as connection:
                    await connection.run(self.END_LEASE, {"holder": turn.holder})


class TurnLost(Exception):
    """The lease expired and another purger took it, or a server of an older version is purging."""


class PurgeTurn:
    """The removal of rows in batches. Each method is one transaction, which renews the lease.

    Every method raises TurnLost, before it changes anything.

    Args:
        holder: The name of the lease's holder.
    """

    def __init__(self, pool: Pool, holder: str) -> None:
        self._pool = pool
        self.holder = holder

    RENEW_LEASE = Statement(
        "purge.renew_lease",
        """
        UPDATE purge_lease SET expires_at = statement_timestamp() + %(duration)s::interval
        WHERE holder = %(holder)s
    """,
    )

    # Servers of older versions hold this lock of their database session for a whole purge.
    LOCK_OUT_OLD_VERSIONS = Statement(
        "purge.lock_out_old_versions",
        """
        SELECT pg_try_advisory_xact_lock(hashtextextended('palaver purge ' || current_schema(), 0))
    """,
    )

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        """Begin a transaction that renews the lease and holds its row.

        It has no timeout: with one, too many rows or a slow batch could never be purged.
        """
        lease = {"holder": self.holder, "duration": LEASE_DURATION}
        async with (
            self._pool.connection() as connection,
            connection.in_transaction(has_timeout=False),
        ):
            is_renewed = await connection.run(self.RENEW_LEASE, lease)
            if not is_renewed or await connection.fetch(self.LOCK_OUT_OLD_VERSIONS) != [(True,)]:
                raise TurnLost
            yield connection

    @property
    def batches(self) -> dict[str, Callable[..., Awaitable[int]]]:
        """Return the methods that remove a batch, by kind of row, in the order to run them."""
        return {
            "messages": self.purge_messages,
            "sessions": self.purge_sessions,
            "users": self.purge_users,
        }

    # SKIP LOCKED passes over sessions that are being written to. PostgreSQL checks the condition
    # again on the locked row: a session whose expiry was extended is dropped.
    CHOOSE_EXPIRED = Statement(
        "purge.choose_expired",
        f"""
        SELECT s.session_id FROM sessions s WHERE {EXPIRED_SESSION}
        ORDER BY s.expires_at
        LIMIT %(limit)s
        FOR NO KEY UPDATE SKIP LOCKED
    """,
    )

    async def delete_expired(self, *, limit: int) -> int:
        """Record the deletion of at most `limit` expired sessions; return how many."""
        async with self._transaction() as connection:
            rows = await connection.fetch(self.CHOOSE_EXPIRED, {"limit": limit})
            if rows:
                await delete_locked(connection, DELETE_EXPIRED, [row[0] for row in rows])
            return len(rows)

    # No index has `updated_at`, which every write changes: this reads all sessions, once per purge.
    CHOOSE_OLD = Statement(
        "purge.choose_old",
        f"""
        SELECT s.session_id FROM sessions s
        WHERE s.session_id > %(after)s AND {LIVE_SESSION}
            AND s.updated_at <= now() - %(retention)s::interval
        ORDER BY s.session_id
        LIMIT %(limit)s
        FOR NO KEY UPDATE SKIP LOCKED
    """,
    )

    async def delete_old(self, retention: timedelta, *, limit: int, after: str = "") -> str | None:
        """Delete at most `limit` sessions whose last change is older than the retention.

        Returns:
            The last of them, after which to continue; None if there are no more.
        """
        parameters = {"retention": min(retention, _MAX_AGE), "limit": limit, "after": after}
        async with self._transaction() as connection:
            rows = await connection.fetch(self.CHOOSE_OLD, parameters)
            if rows:
                await delete_locked(connection, DELETE_NOW, [row[0] for row in rows])
            return rows[-1][0] if rows else None

    MEASURE = Statement(
        "purge.measure",
        """
        SELECT (SELECT count(*) FROM messages WHERE deleted_at <= %(before)s),
            (SELECT count(*) FROM sessions WHERE deleted_at <= %(before)s),
            (SELECT count(*) FROM users WHERE deleted_at <= %(before)s)
    """,
    )

    async def measure(self, before: datetime) -> dict[str, int]:
        """Count the rows of each kind that were deleted at `before` or earlier."""
        async with self._transaction() as connection:
            counts = await connection.fetch_one(self.MEASURE, {"before": before})
            return dict(zip(self.batches, counts or (), strict=True))

    # SKIP LOCKED passes over messages that are being restored. A message that was restored
    # before this statement locked it is no longer deleted, and PostgreSQL drops it when it
    # checks the condition again on the locked row.
    PURGE_MESSAGES = Statement(
        "purge.messages",
        """
        DELETE FROM messages WHERE (session_id, sequence) IN (
            SELECT session_id, sequence FROM messages
            WHERE deleted_at <= %(before)s
            ORDER BY deleted_at
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
    """,
        is_prepared=False,
    )

    async def purge_messages(self, before: datetime, *, limit: int) -> int:
        """Remove at most `limit` messages deleted at `before` or earlier; return how many."""
        parameters = {"before": before, "limit": limit}
        async with self._transaction() as connection:
            return await connection.run(self.PURGE_MESSAGES, parameters)

    CHOOSE_SESSIONS = Statement(
        "purge.choose_sessions",
        """
        SELECT session_id FROM sessions s
        WHERE deleted_at <= %(before)s
            AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.session_id = s.session_id)
        ORDER BY deleted_at
        LIMIT %(limit)s
        FOR UPDATE SKIP LOCKED
    """,
    )

    # Looks for messages again, with a snapshot that is taken after the sessions were locked: a
    # session may have been restored and deleted again after CHOOSE_SESSIONS took its snapshot.
    # A session must not be removed before its messages: if it were created again, its sequences
    # would start at 1, among theirs.
    PURGE_SESSIONS = Statement(
        "purge.sessions",
        """
        DELETE FROM sessions s
        WHERE session_id = ANY(%(session_ids)s)
            AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.session_id = s.session_id)
    """,
        is_prepared=False,
    )

    async def purge_sessions(self, before: datetime, *, limit: int) -> int:
        """Remove at most `limit` sessions deleted at `before` or earlier; return how many.

        Sessions that still have messages, live or deleted, are kept.
        """
        async with self._transaction() as connection:
            parameters = {"before": before, "limit": limit}
            rows = await connection.fetch(self.CHOOSE_SESSIONS, parameters)
            session_ids = [row[0] for row in rows]
            return await connection.run(self.PURGE_SESSIONS, {"session_ids": session_ids})

    # SKIP LOCKED passes over users that are being created again. Deleted sessions of the user
    # may remain: they are not restorable, and no foreign key needs the user.
    PURGE_USERS = Statement(
        "purge.users",
        """
        DELETE FROM users WHERE user_id IN (
            SELECT user_id FROM users
            WHERE deleted_at <= %(before)s
            ORDER BY deleted_at
            LIMIT %(limit)s
            FOR UPDATE SKIP LOCKED
        )
    """,
        is_prepared=False,
    )

    async def purge_users(self, before: datetime, *, limit: int) -> int:
        """Remove at most `limit` users deleted at `before` or earlier; return how many."""
        parameters = {"before": before, "limit": limit}
        async with self._transaction() as connection:
            return await connection.run(self.PURGE_USERS, parameters)
