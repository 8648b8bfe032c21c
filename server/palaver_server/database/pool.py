"""The pool of database connections that all stores share."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

from psycopg import Error, Rollback
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from palaver_server.database.connection import Connection, Trace, untraced
from palaver_server.database.error_translation import translated_errors
from palaver_server.errors import DatabaseUnavailable, NoConnectionInTime

# Seconds after which the pool tries no longer to make a connection that failed, until
# somebody needs one: its pauses between tries grow to about half of it.
_RECONNECT_SECONDS = 10


class Pool:
    """Database connections, in autocommit mode, in UTC and in the language of searches.

    Args:
        database_url: A PostgreSQL URL or conninfo string.
        min_size: Connections kept open.
        max_size: Connections open at the most.
        timeout: Seconds that a call waits for a connection.
        statement_timeout: Seconds that a statement may take, and a transaction may pause.
        trace: Is told of each statement while it runs.
        search_language: The text search configuration that makes words of contents.
        search_timeout: Seconds that a statement of a search may take.

    Attributes:
        connects: Whether the last connection that the pool needed could be made.
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
        search_language: str = "english",
        search_timeout: float = 5,
    ) -> None:
        self.connects = False
        self._statement_timeout = statement_timeout
        self._search_language = search_language
        self._search_timeout = search_timeout
        self._lent: set[Connection] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self._make = partial(
            AsyncConnectionPool[Connection],
            database_url,
            connection_class=self._connection_class(trace),
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
        """Opens the pool without waiting for its connections."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool and its connections."""
        await asyncio.gather(*self._returning)
        await self._pool.close(timeout=1)

    def stats(self) -> dict[str, int]:
        """Gives what psycopg_pool counts of itself, since it was opened or renewed."""
        return self._pool.get_stats()

    async def renew(self) -> None:
        """Starts over with new connections; those in use are closed when they come back.

        After an outage the old ones may be dead without a sign of it, or lead to a server
        that is the primary no more.
        """
        self.connects = True  # until one fails
        old, self._pool = self._pool, self._make()
        await self._pool.open()
        await old.close(timeout=1)

    async def lose(self) -> None:
        """Ends whatever uses a connection or waits for one, now and until `renew`.

        For when the database does not answer: nobody is to wait for it in vain.
        """
        await self._pool.close(timeout=1)
        for connection in self._lent:
            _sever(connection)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lends a connection, and translates the driver's errors of the block.

        Raises:
            NoConnectionInTime: All connections stayed in use.
            DatabaseUnavailable: The database is away, or cannot take work for now.
            DeadlineExceeded: A statement took longer than it may.
        """
        pool = self._pool
        with translated_errors():
            connection = await self._acquire(pool)
            self._lent.add(connection)
            try:
                yield connection
            except Error as error:
                if connection.broken:  # whatever the driver made of it
                    raise DatabaseUnavailable from error
                raise
            except Rollback as error:  # which a transaction keeps in, unless it was lost
                raise DatabaseUnavailable from error
            finally:
                self._lent.discard(connection)
                # In a task of its own, for which nobody need wait. Cancelled amid it, as a call
                # may be, the driver would lose the connection, and forget who is next to get it.
                returning = asyncio.create_task(pool.putconn(connection))
                self._returning.add(returning)
                returning.add_done_callback(self._returning.discard)

    async def _acquire(self, pool: AsyncConnectionPool[Connection]) -> Connection:
        try:
            return await pool.getconn()
        except PoolTimeout as error:
            if self.connects:  # so they were all busy
                raise NoConnectionInTime from error
            raise DatabaseUnavailable from error
        except PoolClosed as error:  # lost, renewed, or a call that outlived the shutdown's grace
            raise DatabaseUnavailable from error

    # What a search costs depends on what a caller asks for, and must have an end; and but
    # for the largest, to compile a statement takes longer than to run it. Several processes
    # pay where all messages are searched. Elsewhere they are a reason for the planner to
    # read all sessions at once, in place of the few of the scope.
    BOUND = """
        SELECT set_config('statement_timeout', %(timeout)s, true),
            set_config('jit', 'off', true),
            set_config('max_parallel_workers_per_gather', CASE
                WHEN %(everything)s THEN current_setting('max_parallel_workers_per_gather')
                ELSE '0' END, true)
    """

    @asynccontextmanager
    async def searching(self, *, everything: bool) -> AsyncIterator[Connection]:
        """Lends a connection in a transaction for a search, and raises what `connection` does.

        Args:
            everything: Whether all messages are searched, and not those of a scope.
        """
        async with self.connection() as connection, connection.transaction():
            timeout = _milliseconds(self._search_timeout)
            await connection.fetch(self.BOUND, {"timeout": timeout, "everything": everything})
            yield connection

    # UTC, since timestamps of other zones cannot show the years 1 and 9999 whole. And a
    # server that hangs in a transaction is not to keep the locks of it from all others.
    CONFIGURE = """
        SELECT set_config('TimeZone', 'UTC', false),
            set_config('default_text_search_config', %(language)s, false),
            set_config('statement_timeout', %(timeout)s, false),
            set_config('idle_in_transaction_session_timeout', %(timeout)s, false)
    """

    async def _configure(self, connection: Connection) -> None:
        parameters = {
            "language": self._search_language,
            "timeout": _milliseconds(self._statement_timeout),
        }
        await connection.fetch(self.CONFIGURE, parameters)

    def _connection_class(self, pool_trace: Trace) -> type[Connection]:
        """Makes a class of connections that note whether the last one could be made."""

        class NotingConnection(Connection):
            trace = staticmethod(pool_trace)

            @classmethod
            async def connect(cls, *args: Any, **kwargs: Any) -> Any:
                try:
                    connection = await super().connect(*args, **kwargs)
                except Error:
                    self.connects = False
                    raise
                self.connects = True
                return connection

        return NotingConnection


def _milliseconds(seconds: float) -> str:
    return str(min(int(seconds * 1000) or 1, 2**31 - 1))


def _sever(connection: Connection) -> None:
    """Ends a connection as its other end would: who waits for an answer learns it at once."""
    with suppress(Error, OSError), socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.shutdown(socket.SHUT_RDWR)
