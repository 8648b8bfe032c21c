"""Watches the database, and tells the health service whether it answers."""

import asyncio
import logging
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2
from psycopg import AsyncConnection, Error

from server.store.pool import Pool

_LOGGER = logging.getLogger(__name__)

# Seconds that a check may take at the least, however often it is made.
_LEAST_PATIENCE = 1.0

_STATUS = {
    True: health_pb2.HealthCheckResponse.SERVING,
    False: health_pb2.HealthCheckResponse.NOT_SERVING,
}


class DatabaseHealth:
    """Keeps the health of all services at what the database's is.

    It has a connection of its own: a busy pool is no lost database.

    Args:
        services: Full names of the services; the overall health, "", follows too.
        interval: Seconds between checks, and that a check may take, but a second at the least.
    """

    def __init__(
        self,
        servicer: health.aio.HealthServicer,
        database_url: str,
        pool: Pool,
        *,
        services: Sequence[str],
        interval: float,
    ) -> None:
        self._servicer = servicer
        self._database_url = database_url
        self._pool = pool
        self._services = ("", *services)
        self._interval = interval
        self._connection: AsyncConnection | None = None
        self._answers: bool | None = None

    @property
    def is_serving(self) -> bool:
        """Whether the database answered when it was last asked."""
        return bool(self._answers)

    async def watch(self) -> None:
        """Checks for ever."""
        while True:
            await self.check()
            await asyncio.sleep(self._interval)

    async def close(self) -> None:
        """Gives up its connection."""
        await self._disconnect()

    async def check(self) -> None:
        """Checks once, and sets the health if it changed."""
        answers = await self._database_answers()
        if answers == self._answers:
            return
        if self._answers is not None:
            await self._pool.renew()  # no connection from before can be relied on
        self._answers = answers
        _LOGGER.log(
            logging.INFO if answers else logging.WARNING,
            "the database %s",
            "answers" if answers else "does not answer",
        )
        for service in self._services:
            await self._servicer.set(service, _STATUS[answers])

    async def _database_answers(self) -> bool:
        asking = asyncio.create_task(self._ask())
        await asyncio.wait((asking,), timeout=max(self._interval, _LEAST_PATIENCE))
        if not asking.done():
            # Closed before it is cancelled, or the driver would ask a database that
            # does not answer to cancel the statement, and wait for that.
            await self._disconnect()
            asking.cancel()
            return False
        try:
            asking.result()
        except Error:
            await self._disconnect()
            return False
        return True

    async def _ask(self) -> None:
        if self._connection is None:
            self._connection = await AsyncConnection.connect(self._database_url, autocommit=True)
        await self._connection.execute("SELECT 1")

    async def _disconnect(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
