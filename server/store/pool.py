"""The pool of database connections that all stores share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from server.errors import DatabaseUnavailable, NoConnectionInTime
from server.store.error_translation import translated_errors


class Pool:
    """Database connections, in autocommit mode, with the time zone set to UTC.

    Args:
        database_url: A PostgreSQL URL or conninfo string.
        min_size: Connections kept open.
        max_size: Connections open at the most.
        timeout: Seconds that a call waits for a connection.
    """

    def __init__(self, database_url: str, *, min_size: int, max_size: int, timeout: float) -> None:
        self._in_use = 0
        self._max_size = max_size
        self._pool = AsyncConnectionPool(
            database_url,
            kwargs={"autocommit": True},
            min_size=min(min_size, max_size),
            max_size=max_size,
            timeout=timeout,
            configure=_configure,
            open=False,
            name="palaver",
        )

    async def open(self) -> None:
        """Opens the pool without waiting for its connections."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool and its connections."""
        await self._pool.close()

    async def renew(self) -> None:
        """Replaces all connections, those in use when they come back."""
        await self._pool.drain()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        """Lends a connection, and translates the driver's errors of the block.

        Raises:
            NoConnectionInTime: All connections stayed in use.
            DatabaseUnavailable: The database is away, or cannot take work for now.
        """
        with translated_errors():
            connection = await self._acquire()
            self._in_use += 1
            try:
                yield connection
            finally:
                self._in_use -= 1
                await self._pool.putconn(connection)

    async def _acquire(self) -> AsyncConnection[tuple[Any, ...]]:
        try:
            return await self._pool.getconn()
        except PoolTimeout as error:
            if self._in_use < self._max_size:  # a connection was missing, not busy
                raise DatabaseUnavailable from error
            raise NoConnectionInTime from error
        except PoolClosed as error:  # a call that outlived the grace period of a shutdown
            raise DatabaseUnavailable from error


async def _configure(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    """Makes timestamps come back in UTC: others cannot show the years 1 and 9999 whole."""
    await connection.execute("SET TIME ZONE 'UTC'")


def without_password(database_url: str) -> str:
    """Gives the database's address for logs: as a conninfo string, without the password."""
    parameters = conninfo_to_dict(database_url)
    parameters.pop("password", None)
    parameters.pop("sslpassword", None)
    return make_conninfo("", **parameters)
