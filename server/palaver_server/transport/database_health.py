"""Monitoring of the database, which sets the health of the services."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from grpc_health.v1 import health, health_pb2
from psycopg import AsyncConnection, Error
from psycopg.errors import IdleSessionTimeout

from palaver_server.database.error_translation import loggable_reason
from palaver_server.database.pool import Pool
from palaver_server.database.rights import MISSING_GRANTS
from palaver_server.errors import DatabaseUnavailable, NoConnectionInTime

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

Row: TypeAlias = tuple[Any, ...]
Connection: TypeAlias = AsyncConnection[Row]

# The limit for connecting, and for the answer to a query.
_TIMEOUT_SECONDS = 2.0

# Whether the database is writable: after a failover, an old connection may still lead to the former
# primary, now read-only. And the rights that this user lacks.
_CHECK = f"""
    SELECT %(read_only)s OR current_setting('transaction_read_only') = 'off',
        ARRAY({MISSING_GRANTS}) || ARRAY(
            SELECT format('GRANT SELECT ON schema_migrations TO %%I', current_user)
            WHERE NOT has_table_privilege(to_regclass('schema_migrations')::oid, 'SELECT')
        )
"""

# Catalogs may be on another machine than the tables: on Citus, the coordinator answers _CHECK
# although the worker with the schema is lost. Of all tables, this one is never locked for long.
_READ_TABLE = "SELECT 1 FROM schema_migrations LIMIT 1"


class DatabaseState(Enum):
    """The state of the database; the values are for the log."""

    SERVING = "answers"
    REFUSING = "answers, but refuses reads, writes, or connections where none is left"
    RECONNECTED = "closed the connection, and accepts new ones"
    UNREACHABLE = "does not answer"
    CLOSED = "closed the connection of the health check alone"


class DatabaseHealth:
    """The monitor that sets the services' health to the database's, and resets the pools.

    It has a connection of its own, so that a busy pool does not look like a lost database.

    Args:
        servicer: The health service.
        database_url: The database.
        pools: The pools to reset, first the pool that serves calls.
        services: Full names of the services; the overall health, "", follows too.
        tables: Names of the tables that are read and written.
        uses_vectors: Whether calls use pgvector.
        read_only: Whether a database is healthy that accepts no writes, and grants none.
        interval: Seconds between checks.
    """

    def __init__(  # noqa: PLR0913 - most by name
        self,
        servicer: health.aio.HealthServicer,
        database_url: str,
        pools: Sequence[Pool],
        *,
        services: Sequence[str],
        tables: Sequence[str],
        interval: float,
        uses_vectors: bool = False,
        read_only: bool = False,
    ) -> None:
        self._servicer = servicer
        self._database_url = database_url
        self._pools = pools
        self._services = ("", *services)
        self._expected = {
            "tables": list(tables),
            "uses_vectors": uses_vectors,
            "read_only": read_only,
            "privileges": ["SELECT"] if read_only else ["SELECT", "INSERT", "UPDATE", "DELETE"],
        }
        self._interval = interval
        self._lacking: list[str] = []
        self._connection: Connection | None = None
        self._state: DatabaseState | None = None
        self._accepts_connections = True

    @property
    def is_serving(self) -> bool:
        """Whether the database answered the last check."""
        return self._state is DatabaseState.SERVING

    async def watch(self) -> None:
        """Check periodically until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def close(self) -> None:
        """Close the connection."""
        await self._replace(None)

    async def check(self) -> None:
        """Check once, and set the health if it changed."""
        old = self._connection
        over_old = state = await self._ask(old) if old else DatabaseState.UNREACHABLE
        if over_old is DatabaseState.CLOSED:  # no outage
            await self._replace(None)
            old, over_old = None, DatabaseState.UNREACHABLE
        if state is not DatabaseState.SERVING or not self._pools[0].connects:
            # The old connection alone may be lost, or lead to the former primary.
            state = await self._ask_again(over_old)
        else:
            self._note_new_connections(accepted=True)
        has_reconnected = over_old is DatabaseState.UNREACHABLE and self._connection is not None
        if old and has_reconnected and state is DatabaseState.SERVING:
            state = DatabaseState.RECONNECTED  # until the next check, so that the outage is visible
        await self._adapt_pools(state)
        if state is not self._state:
            await self._publish(state)
        self._state = state

    async def _ask_again(self, over_old: DatabaseState) -> DatabaseState:
        """Ask over a new connection, and keep it if the database answers.

        If there is none to be had, because all that the database admits are in use, open ones that
        still work decide: a server that can serve its calls must not be taken out of service.
        """
        answers_connect = True
        try:
            connection = await _in_time(
                AsyncConnection.connect(
                    # Nothing is prepared: a pooler may run each check in another session.
                    self._database_url,
                    autocommit=True,
                    prepare_threshold=None,
                )
            )
        except (Error, TimeoutError) as error:
            answers_connect = not isinstance(error, TimeoutError)
        else:
            over_new = await self._ask(connection)
            if over_new not in {DatabaseState.UNREACHABLE, DatabaseState.CLOSED}:
                self._note_new_connections(accepted=True)
                await self._replace(connection)
                return over_new
        self._note_new_connections(accepted=False)
        pool = self._pools[0]
        if over_old is not DatabaseState.UNREACHABLE:
            return over_old if pool.has_connections else DatabaseState.REFUSING
        await self._replace(None)
        # The pool is closed while the database is unreachable.
        is_open = self._state is not DatabaseState.UNREACHABLE and pool.has_connections
        return (
            await self._ask_over(pool) if answers_connect and is_open else DatabaseState.UNREACHABLE
        )

    async def _ask(self, connection: Connection) -> DatabaseState:
        """Ask over a connection; close it if the database does not answer."""
        try:
            row = await _in_time(self._check_over(connection), connection)
        except (Error, TimeoutError) as error:
            await connection.close()
            # In an outage, the database closes those of the pool as well.
            is_alone = isinstance(error, Error) and self._pools[0].has_connections
            if is_alone or isinstance(error, IdleSessionTimeout):
                return DatabaseState.CLOSED
            return DatabaseState.UNREACHABLE
        return self._state_of(row)

    async def _ask_over(self, pool: Pool) -> DatabaseState:
        """Ask over a connection of a pool, of a database that refuses new connections at once."""
        is_busy = True

        async def ask() -> Row | None:
            nonlocal is_busy
            async with pool.connection() as connection:
                is_busy = False
                return await self._check_over(connection)

        try:
            row = await _in_time(ask())
        except (DatabaseUnavailable, NoConnectionInTime, TimeoutError):
            # Calls that have connections may still succeed, so they must not be aborted.
            return DatabaseState.REFUSING if is_busy else DatabaseState.UNREACHABLE
        return self._state_of(row)

    async def _check_over(self, connection: Connection) -> Row | None:
        cursor = await connection.execute(_CHECK.encode(), self._expected)
        row = await cursor.fetchone()
        if row != (True, []):
            return row
        try:
            await connection.execute(_READ_TABLE)
        except Error as error:
            if connection.closed:
                raise
            if self._state is DatabaseState.SERVING:
                _LOGGER.warning("the database cannot read its tables: %s", loggable_reason(error))
            return (False, [])
        return row

    def _state_of(self, row: Row | None) -> DatabaseState:
        """Return the state that an answer tells; log rights that are missing since the last."""
        is_writable, lacking = row or (False, [])
        if lacking != self._lacking and lacking:
            _LOGGER.warning(
                "this database user lacks rights that calls need; run as the schema's owner: %s",
                "; ".join(lacking),
            )
        self._lacking = lacking
        return DatabaseState.SERVING if is_writable and not lacking else DatabaseState.REFUSING

    def _note_new_connections(self, *, accepted: bool) -> None:
        if accepted != self._accepts_connections:
            _LOGGER.log(
                logging.INFO if accepted else logging.WARNING,
                "the database accepts %s connections",
                "new" if accepted else "no new",
            )
        self._accepts_connections = accepted

    async def _replace(self, connection: Connection | None) -> None:
        old, self._connection = self._connection, connection
        if old is not None:
            await old.close()

    async def _adapt_pools(self, state: DatabaseState) -> None:
        was = self._state
        if state is DatabaseState.UNREACHABLE:
            if was is not DatabaseState.UNREACHABLE:
                for pool in self._pools:
                    await pool.fail_all()
        elif (
            was is DatabaseState.UNREACHABLE  # connections from before may be broken
            or state is DatabaseState.RECONNECTED
            # connections may lead to the former primary
            or (state is DatabaseState.SERVING and was is DatabaseState.REFUSING)
        ):
            for pool in self._pools:
                await pool.reset()

    async def _publish(self, state: DatabaseState) -> None:
        serves = state is DatabaseState.SERVING
        _LOGGER.log(
            logging.INFO if serves else logging.WARNING,
            "the database %s; the health is now %s",
            state.value,
            "SERVING" if serves else "NOT_SERVING",
        )
        statuses = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, statuses.SERVING if serves else statuses.NOT_SERVING)


async def _in_time(work: Coroutine[Any, Any, T], connection: Connection | None = None) -> T:
    """Wait for work on a connection, at most for the timeout.

    The work has ended when this returns or raises, even if the caller is cancelled: it must
    not go on over a connection that the caller closes.

    Raises:
        TimeoutError: The work took longer.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task,), timeout=_TIMEOUT_SECONDS)
        if not task.done():
            raise TimeoutError
        return task.result()
    finally:
        if not task.done():
            if connection is not None:
                # Close it before cancelling the task: the driver would otherwise ask the silent
                # database to cancel the statement, and wait for the answer.
                await connection.close()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
