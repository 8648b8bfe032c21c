"""The pools of database connections."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.connection import Trace
from palaver_server.database.pool import Pool, PreparedStatements
from palaver_server.database.reader import Reader
from palaver_server.database.standby import StandbyReader
from palaver_server.database.url import with_timeouts

# The tables that reads need, those that a server also writes, and that of the vectors.
READ_TABLES = ("sessions", "messages", "users", "search_index")
WRITTEN_TABLES = (*READ_TABLES, "embedding_queue", "embedding_models", "purge_lease")
VECTOR_TABLES = ("embeddings",)

# A read that finds the standby's connections in use for longer goes to the primary.
_STANDBY_TIMEOUT_SECONDS = 1.0


def migration_url(settings: DatabaseSettings, database_url: str) -> str:
    """Return the URL for changes to the schema, which is the database's unless one is set."""
    own = settings.migration_database_url
    return with_timeouts(own.get_secret_value() if own else database_url)


@asynccontextmanager
async def open_pool(settings: Settings, database_url: str, trace: Trace) -> AsyncIterator[Pool]:
    """Open the pool of the calls' connections, and close it after the block."""
    pool = _pool_of_calls(settings, database_url, trace, settings.pool_timeout_seconds)
    async with opened(pool):
        yield pool


def _pool_of_calls(settings: Settings, url: str, trace: Trace, timeout: float) -> Pool:
    return Pool(
        url,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        timeout=timeout,
        statement_timeout=settings.statement_timeout_seconds,
        trace=trace,
        prepared_statements=PreparedStatements(settings.prepared_statements),
    )


def _pool_of_one(settings: Settings, url: str, timeout: float) -> Pool:
    prepared_statements = PreparedStatements(settings.prepared_statements)
    return Pool(
        url, min_size=1, max_size=1, timeout=timeout, prepared_statements=prepared_statements
    )


class Reading(NamedTuple):
    """The parts that run reads.

    Attributes:
        reader: Runs the reads.
        standby: The same reader if there is a standby.
        own_pools: Connections to the database that only reading uses.
    """

    reader: Reader
    standby: StandbyReader | None
    own_pools: tuple[Pool, ...]


@asynccontextmanager
async def open_reading(
    settings: Settings, database_url: str, pool: Pool, trace: Trace
) -> AsyncIterator[Reading]:
    """Open the connections to the standby, if one is configured.

    A standby that is away is logged; the database runs the reads until it is back.
    """
    if settings.read_database_url is None:
        yield Reading(pool, None, ())
        return
    read_url = with_timeouts(settings.read_database_url.get_secret_value())
    timeout = min(_STANDBY_TIMEOUT_SECONDS, settings.pool_timeout_seconds)
    standby = _pool_of_calls(settings, read_url, trace, timeout)
    looks = _pool_of_one(settings, database_url, settings.pool_timeout_seconds)
    checks = _pool_of_one(settings, read_url, timeout)
    async with AsyncExitStack() as stack:
        for each in (standby, looks, checks):
            await stack.enter_async_context(opened(each))
        reader = StandbyReader(
            primary=pool,
            standby=standby,
            looks=looks,
            checks=checks,
            max_staleness=settings.read_max_staleness_seconds,
            interval=settings.health_interval_seconds,
        )
        await reader.check()
        yield Reading(reader, reader, (looks,))


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[None]:
    """Open a pool, and close it after the block."""
    await pool.open()
    try:
        yield
    finally:
        await pool.close()
