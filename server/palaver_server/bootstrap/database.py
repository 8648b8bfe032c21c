"""The pools of database connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from palaver_server.config import Settings
from palaver_server.database.connection import Trace
from palaver_server.database.pool import Pool


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
