"""The database: preparing it for the service, and the pool of its connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from palaver_server.bootstrap.embedding import open_embedding
from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.connection import Trace
from palaver_server.database.migrate import migrate
from palaver_server.database.pool import Pool
from palaver_server.database.url import with_timeouts

_CONNECT_TIMEOUT_SECONDS = 30.0


async def prepare_database(settings: DatabaseSettings, database_url: str) -> list[str]:
    """Prepare a database for the service, and return the names of the migrations that were run.

    Raises:
        DatabaseUnusable: The database is unreachable, refuses the user, or lacks rights.
        DatabaseTooNew: The database belongs to a newer Palaver.
    """
    database_url = with_timeouts(database_url)
    names = await migrate(database_url)
    pool = Pool(database_url, min_size=1, max_size=1, timeout=_CONNECT_TIMEOUT_SECONDS)
    async with opened(pool), open_embedding(settings, database_url, pool):
        return names


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
        search_language=settings.search_language,
        search_timeout=settings.search_timeout_seconds,
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
