"""The connection pool shared by all stores, and by principals.

A principal takes a further connection only while it has fewer than are free, also while it waits
for locks. Snapshots, in which searches and filtered listings run, use at most half of the
connections together, and a quarter for one principal. Principals that wait for snapshots get equal
amounts of time.
"""

import asyncio
import os
import select
import socket
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from enum import Enum
from functools import partial
from time import monotonic
from typing import Any
from weakref import WeakSet

from psycopg import Error, OperationalError
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from palaver_server.database.connection import Connection, Trace, untraced
from palaver_server.database.error_translation import domain_error
from palaver_server.database.reader import T, Work
from palaver_server.database.statement import Statement
from palaver_server.durations import milliseconds
from palaver_server.errors import DatabaseUnavailable, NoConnectionInTime
from palaver_server.fair_slots import Consumer, FairSlots, Share

# After a failed connection, the pool retries for this long, with pauses that grow to about half
# of it; then it waits until a caller needs a connection.
_RECONNECT_SECONDS = 10

_ROLLBACK_TIMEOUT_SECONDS = 5.0


class PreparedStatements(Enum):
    """Whether the connections of a pool prepare statements."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Pool:
    """A pool of connections in autocommit mode.

    Args:
        database_url: A PostgreSQL URL or conninfo string.
        min_size: Connections kept open.
        max_size: Maximum open connections.
        timeout: Seconds that a caller waits for a connection.
        statement_timeout: Maximum seconds for a statement, and for a pause in a transaction.
        trace: Wraps each statement while it runs.
        prepared_statements: Whether connections prepare statements. AUTO: unless they lead to a
            pooler, which may run each transaction in another database session.

    Attributes:
        connects: Whether the last attempt to open a connection succeeded.
    """

    def __init__(  # noqa: PLR0913 - all but the first by name
        self,
        database_url: str,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
        statement_timeout: float = 60,
        trace: Trace = untraced,
        prepared_statements: PreparedStatements = PreparedStatements.AUTO,
    ) -> None:
        self.connects = False
        self._prepared_statements = prepared_statements
        self._opened: WeakSet[Connection] = WeakSet()
        self._in_use: set[Connection] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self._timeout = timeout
        self._slots = FairSlots(max_size)
        # Of connections in snapshots, each of which takes one of the others too.
        self._snapshot_slots = FairSlots(
            max(1, max_size // 2), max_per_principal=max(1, max_size // 4), is_charged_by_time=True
        )
        self._waits: Counter[str] = Counter()  # of calls that waited for a slot
        self._make = partial(
            AsyncConnectionPool[Connection],
            database_url,
            connection_class=self._connection_class(trace, statement_timeout),
            min_size=min(min_size, max_size),
            max_size=max_size,
            timeout=timeout,
            configure=self._configure,
            reconnect_timeout=_RECONNECT_SECONDS,
            open=False,
            name="palaver",
        )
        self._pool = self._make()

    async def open(self) -> None:
        """Open the pool without waiting for its connections."""
        await self._pool.open()

    async def close(self) -> None:
        """Close the pool and its connections."""
        await asyncio.gather(*self._returning)
        await self._pool.close(timeout=1)

    def stats(self) -> dict[str, int]:
        """Return the statistics since the pool was opened or reset, under psycopg_pool's names."""
        waiting = self._slots.waiting + self._snapshot_slots.waiting
        return self._waits + Counter(self._pool.get_stats()) + Counter(requests_waiting=waiting)

    @property
    def has_connections(self) -> bool:
        """Whether a connection is open, as far as is known without using it."""
        return any(
            not (connection.closed if connection in self._in_use else _was_closed(connection))
            for connection in self._opened
        )

    async def reset(self) -> None:
        """Replace all connections; those in use are closed when they are returned.

        After an outage, old connections may be dead without an error, or lead to a server that
        is no longer the primary.
        """
        self.connects = True  # until an attempt fails
        self._opened = WeakSet()
        self._waits.clear()
        old, self._pool = self._pool, self._make()
        await self._pool.open()
        await old.close(timeout=1)

    async def fail_all(self) -> None:
        """Fail current and waiting users immediately, and all new ones until `reset`.

        To be called when the database does not answer: its users would wait for their timeouts.
        """
        await self._pool.close(timeout=1)
        for connection in self._in_use:
            abort(connection)

    @asynccontextmanager
    async def connection(
        self,
        principal: Consumer | None = None,
        *,
        snapshot: Sequence[str] | None = None,
        check: Work[None] | None = None,
    ) -> AsyncIterator[Connection]:
        """Check out a connection for the block, and translate the block's driver errors.

        Args:
            principal: Uses a connection of its share. None: the server itself, which has no share.
            snapshot: The `setup` of a transaction, as of `Connection.begin_snapshot_with_next`,
                which begins with the block's first statement. The block does not wait for its end:
                there is nothing to commit. None: each statement has a snapshot of its own.
            check: Runs over the connection before the transaction.

        Raises:
            NoConnectionInTime: All connections, or those of the principal's share, stayed in use.
            DatabaseUnavailable: The database is unreachable or temporarily refuses work.
            DeadlineExceeded: A statement exceeded its timeout.
        """
        is_snapshot = snapshot is not None
        shares: list[Share] = []
        try:
            for slots in (self._snapshot_slots, self._slots) if is_snapshot else (self._slots,):
                share = slots.share(principal)
                if not share.try_acquire():
                    await self._wait(share)
                shares.append(share)
            pool = self._pool
            connection = await self._acquire(pool)
        except BaseException:
            for share in shares:
                share.release()
            raise
        self._in_use.add(connection)
        snapshot_since = monotonic() if is_snapshot else None
        try:
            if check:
                await check(connection)
            if snapshot is not None:
                connection.begin_snapshot_with_next(snapshot)
            yield connection
        except Error as error:
            if connection.broken:  # the error's class does not always tell
                raise DatabaseUnavailable from error
            if (translated := domain_error(error)) is None:
                raise
            raise translated from error
        finally:
            self._return_later(self._return(pool, connection, shares, snapshot_since))

    def _return_later(self, putconn: Coroutine[Any, Any, None]) -> None:
        # In a task of its own: a caller cancelled during putconn would make psycopg_pool
        # lose the connection and leave the next waiter without one.
        returning = asyncio.create_task(putconn)
        self._returning.add(returning)
        returning.add_done_callback(self._returning.discard)

    async def _acquire(self, pool: AsyncConnectionPool[Connection]) -> Connection:
        try:
            while _was_closed(connection := await pool.getconn()):
                # Not as psycopg_pool's `check`, which pauses for a second after each.
                await connection.close()
                self._return_later(pool.putconn(connection))
            return connection
        except PoolTimeout as error:
            if self.connects:  # all connections were in use
                raise NoConnectionInTime from error
            raise DatabaseUnavailable from error
        except OperationalError as error:  # by fail_all, reset or a shutdown; others
            raise DatabaseUnavailable from error

    async def _wait(self, share: Share) -> None:
        """Wait for a slot of a share.

        Raises:
            NoConnectionInTime: As `connection` does.
            DatabaseUnavailable: As `connection` does.
        """
        clock = asyncio.get_running_loop().time
        started = clock()
        try:
            async with asyncio.timeout(self._timeout):
                await share.acquire()
        except TimeoutError as error:
            self._waits.update(requests_num=1, requests_errors=1)
            raise (NoConnectionInTime if self.connects else DatabaseUnavailable) from error
        finally:
            self._waits.update(requests_queued=1, requests_wait_ms=milliseconds(clock() - started))

    async def _return(
        self,
        pool: AsyncConnectionPool[Connection],
        connection: Connection,
        shares: Sequence[Share],
        snapshot_since: float | None,
    ) -> None:
        try:
            if snapshot_since is not None:
                await _roll_back(connection)
            self._in_use.discard(connection)
            await pool.putconn(connection)
        finally:
            if snapshot_since is not None:
                shares[0].charge(monotonic() - snapshot_since)
            for share in shares:
                share.release()

    async def read(
        self,
        work: Work[T],
        principal: Consumer | None = None,
        *,
        snapshot: Sequence[str] | None = None,
        check: Work[None] | None = None,
    ) -> T:
        """Run a read, as `Reader` describes.

        Args:
            work: As of `Reader.read`, as are the next two.
            principal: The one whose share it uses.
            snapshot: The statements that set up a snapshot.
            check: As of `connection`; its exception ends the read.
        """
        async with self.connection(principal, snapshot=snapshot, check=check) as connection:
            return await work(connection)

    GET_BACKEND = Statement("connection.get_backend", "SELECT pg_backend_pid()", is_prepared=False)

    async def _configure(self, connection: Connection) -> None:
        if self._prepared_statements is PreparedStatements.AUTO:
            row = await connection.fetch_one(self.GET_BACKEND)
            # A pooler gives its clients numbers of its own, by which they cancel statements.
            connection.prepares = row == (connection.info.backend_pid,)
        else:
            connection.prepares = self._prepared_statements is PreparedStatements.ON

    def _connection_class(self, pool_trace: Trace, timeout: float) -> type[Connection]:
        """Make a connection class that records its connections, and failures to connect."""

        class PoolConnection(Connection):
            trace = staticmethod(pool_trace)
            statement_timeout = timeout

            @classmethod
            async def connect(cls, *args: Any, **kwargs: Any) -> Any:
                try:
                    connection = await super().connect(*args, **kwargs)
                except Error:
                    self.connects = False
                    raise
                self.connects = True
                self._opened.add(connection)
                return connection

        return PoolConnection


def _was_closed(connection: Connection) -> bool:
    """Return whether the database closed a connection while it was idle.

    Over an idle connection, the database sends only the reason why it closes it, and then the end
    of the stream, so a look at the socket suffices, without a round trip. (It also sends
    parameters that a reload of its configuration changed; replacing that connection is harmless.)
    """
    if connection.closed:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


async def _roll_back(connection: Connection) -> None:
    """End a connection's transaction; abort a connection that does not answer."""
    loop = asyncio.get_running_loop()
    timeout = loop.call_later(_ROLLBACK_TIMEOUT_SECONDS, abort, connection)
    try:
        await connection.rollback()
    except Error:  # the connection is lost, and putconn replaces it
        pass
    finally:
        timeout.cancel()


def abort(connection: Connection) -> None:
    """Shut down a connection's socket, so that a caller waiting for an answer fails at once."""
    with suppress(Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        duplicate.shutdown(socket.SHUT_RDWR)
