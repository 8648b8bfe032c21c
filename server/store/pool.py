"""The pool of database connections that all stores share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from psycopg import AsyncConnection, AsyncCursor, Error
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import Format
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from server.errors import DatabaseUnavailable, NoConnectionInTime
from server.store.error_translation import translated_errors


class BinaryCursor(AsyncCursor[tuple[Any, ...]]):
    """Takes results as PostgreSQL keeps them, which are cheaper to read than text."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.format = Format.BINARY


class Pool:
    """Database connections, in autocommit mode, with the time zone set to UTC.

    Args:
        database_url: A PostgreSQL URL or conninfo string.
        min_size: Connections kept open.
        max_size: Connections open at the most.
        timeout: Seconds that a call waits for a connection.
        cursor_factory: What runs the statements.
    """

    def __init__(
        self,
        database_url: str,
        *,
        min_size: int,
        max_size: int,
        timeout: float,
        cursor_factory: type[BinaryCursor] = BinaryCursor,
    ) -> None:
        self._connects = False
        self._make = partial(
            AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]],
            database_url,
            connection_class=self._connection_class(),
            kwargs={"autocommit": True, "cursor_factory": cursor_factory},
            min_size=min(min_size, max_size),
            max_size=max_size,
            timeout=timeout,
            configure=_configure,
            open=False,
            name="palaver",
        )
        self._pool = self._make()

    async def open(self) -> None:
        """Opens the pool without waiting for its connections."""
        await self._pool.open()

    async def close(self) -> None:
        """Closes the pool and its connections."""
        await self._pool.close()

    def stats(self) -> dict[str, int]:
        """Gives what psycopg_pool counts of itself, since it was opened or renewed."""
        return self._pool.get_stats()

    async def renew(self) -> None:
        """Starts over with new connections; those in use are closed when they come back.

        In an outage, and after it, the old ones may be dead without a sign of it, and the
        attempts to make new ones may be pausing for long.
        """
        self._connects = False
        old, self._pool = self._pool, self._make()
        await self._pool.open()
        await old.close(timeout=1)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[AsyncConnection[tuple[Any, ...]]]:
        """Lends a connection, and translates the driver's errors of the block.

        Raises:
            NoConnectionInTime: All connections stayed in use.
            DatabaseUnavailable: The database is away, or cannot take work for now.
        """
        pool = self._pool
        with translated_errors():
            connection = await self._acquire(pool)
            try:
                yield connection
            except Error as error:
                if connection.broken:  # whatever the driver made of it
                    raise DatabaseUnavailable from error
                raise
            finally:
                await pool.putconn(connection)

    async def _acquire(
        self, pool: AsyncConnectionPool[AsyncConnection[tuple[Any, ...]]]
    ) -> AsyncConnection[tuple[Any, ...]]:
        try:
            return await pool.getconn()
        except PoolTimeout as error:
            if self._connects:  # so they were all busy
                raise NoConnectionInTime from error
            raise DatabaseUnavailable from error
        except PoolClosed as error:  # renewed, or a call that outlived the shutdown's grace
            raise DatabaseUnavailable from error

    def _connection_class(self) -> type[AsyncConnection[tuple[Any, ...]]]:
        """Makes a class of connections that note whether the last one could be made."""

        class NotingConnection(AsyncConnection[tuple[Any, ...]]):
            @classmethod
            async def connect(cls, *args: Any, **kwargs: Any) -> Any:
                try:
                    connection = await super().connect(*args, **kwargs)
                except Error:
                    self._connects = False
                    raise
                self._connects = True
                return connection

        return NotingConnection


async def _configure(connection: AsyncConnection[tuple[Any, ...]]) -> None:
    """Makes timestamps come back in UTC: others cannot show the years 1 and 9999 whole."""
    await connection.execute("SET TIME ZONE 'UTC'")


def without_password(database_url: str) -> str:
    """Gives the database's address for logs: as a conninfo string, without the password."""
    parameters = conninfo_to_dict(database_url)
    parameters.pop("password", None)
    parameters.pop("sslpassword", None)
    return make_conninfo("", **parameters)
