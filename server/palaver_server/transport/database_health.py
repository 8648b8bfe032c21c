"""Watches the database, and tells the health service whether it takes work."""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from enum import Enum
from typing import Any, TypeAlias, TypeVar

from grpc_health.v1 import health, health_pb2
from psycopg import AsyncConnection, Error

from palaver_server.database.pool import Pool

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

# Seconds that a connection may take to be made, and to answer.
_PATIENCE = 2.0

# A connection outlives a failover, and leads to a server that takes no writes any more.
_ASK = "SELECT current_setting('transaction_read_only') = 'off'"


class DatabaseState(Enum):
    """What the database is good for; the values go to the log."""

    SERVING = "answers"
    REFUSING = "answers, but takes no writes or no more connections"
    BACK = "closed the connection, and takes new ones"
    AWAY = "does not answer"


class DatabaseHealth:
    """Keeps the health of all services at what the database's is, and the pools in step.

    It has a connection of its own: a busy pool is no lost database.

    Args:
        pools: That of the calls first.
        services: Full names of the services; the overall health, "", follows too.
        interval: Seconds between checks.
    """

    def __init__(
        self,
        servicer: health.aio.HealthServicer,
        database_url: str,
        pools: Sequence[Pool],
        *,
        services: Sequence[str],
        interval: float,
    ) -> None:
        self._servicer = servicer
        self._database_url = database_url
        self._pools = pools
        self._services = ("", *services)
        self._interval = interval
        self._connection: Connection | None = None
        self._state: DatabaseState | None = None

    @property
    def is_serving(self) -> bool:
        """Whether the database answered when it was last asked."""
        return self._state is DatabaseState.SERVING

    async def watch(self) -> None:
        """Checks for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def close(self) -> None:
        """Gives up its connection."""
        await self._replace(None)

    async def check(self) -> None:
        """Checks once, and sets the health if it changed."""
        old = self._connection
        over_old = state = await _ask(old) if old else DatabaseState.AWAY
        if state is not DatabaseState.SERVING or not self._pools[0].connects:
            # An old connection may be lost alone, or lead to what was the primary.
            state = await self._ask_anew(over_old)
        if old and over_old is DatabaseState.AWAY and state is DatabaseState.SERVING:
            state = DatabaseState.BACK  # until the next check, to be seen: it was away
        await self._adapt_pools(state)
        if state is not self._state:
            await self._tell(state)
        self._state = state

    async def _ask_anew(self, over_old: DatabaseState) -> DatabaseState:
        """Asks over a new connection, and keeps it if there is an answer."""
        try:
            connection = await _in_time(
                AsyncConnection.connect(self._database_url, autocommit=True)
            )
        except (Error, TimeoutError):
            state = DatabaseState.AWAY
        else:
            state = await _ask(connection)
        if state is not DatabaseState.AWAY:
            await self._replace(connection)
            return state
        if over_old is not DatabaseState.AWAY:
            return DatabaseState.REFUSING
        await self._replace(None)
        return state

    async def _replace(self, connection: Connection | None) -> None:
        old, self._connection = self._connection, connection
        if old is not None:
            await old.close()

    async def _adapt_pools(self, state: DatabaseState) -> None:
        was = self._state
        if state is DatabaseState.AWAY:
            if was is not DatabaseState.AWAY:
                for pool in self._pools:
                    await pool.fail_all()
        elif (
            was is DatabaseState.AWAY  # no connection from before can be relied on
            or state is DatabaseState.BACK
            # some may lead to what was the primary
            or (state is DatabaseState.SERVING and was is DatabaseState.REFUSING)
        ):
            for pool in self._pools:
                await pool.reset()

    async def _tell(self, state: DatabaseState) -> None:
        serves = state is DatabaseState.SERVING
        _LOGGER.log(logging.INFO if serves else logging.WARNING, "the database %s", state.value)
        statuses = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, statuses.SERVING if serves else statuses.NOT_SERVING)


async def _ask(connection: Connection) -> DatabaseState:
    """Asks over a connection; one that gives no answer is closed."""
    try:
        cursor = await _in_time(connection.execute(_ASK), connection)
        row = await cursor.fetchone()
    except (Error, TimeoutError):
        await connection.close()
        return DatabaseState.AWAY
    return DatabaseState.SERVING if row == (True,) else DatabaseState.REFUSING


async def _in_time(work: Coroutine[Any, Any, T], connection: Connection | None = None) -> T:
    """Waits for work to be done, as far as patience goes.

    Raises:
        TimeoutError: It took longer.
    """
    task = asyncio.create_task(work)
    await asyncio.wait((task,), timeout=_PATIENCE)
    if task.done():
        return task.result()
    if connection is not None:
        # Before the task is cancelled, or the driver would ask a database that does not
        # answer to cancel the statement, and wait for that.
        await connection.close()
    task.cancel()
    raise TimeoutError
