"""The pools of database connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.connection import Trace
from palaver_server.database.pool import Pool, PreparedStatements
from palaver_server.database.url import with_timeouts

# The tables that calls read and write.
TABLES_OF_CALLS = ("sessions", "messages", "users", "embedding_queue")


def migration_url(settings: DatabaseSettings, database_url: str) -> str:
    """Return the URL for changes to the schema, which is the database's unless one is set."""
    own = settings.migration_database_url
    return with_timeouts(own.get_secret_value() if own else database_url)


@asynccontextmanager
async def open_pool(settings: Settings, database_url: str, trace: Trace) -> AsyncIterator[Pool]:
    """Open the pool of the calls' connections, and close it after the block."""
    pool = Pool(
        database_url,
        min_size=settings.pool_min_size,
        max_size=settings.pool_max_size,
        timeout=settings.pool_timeout_seconds,
        statement_timeout=settings.statement_timeout_seconds,
        trace=trace,
        prepared_statements=PreparedStatements(settings.prepared_statements),
    )
    async with opened(pool):
        yield pool


@asynccontextmanager
async def opened(pool: Pool) -> AsyncIterator[None]:
    """Open a pool, and close it after the block."""
    await pool.open()
    try:
        yield
    finally:
        await pool.close()
