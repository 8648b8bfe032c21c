"""The preparation of a database: waiting for it, and its migrations."""

from palaver_server.bootstrap.database import migration_url, opened
from palaver_server.bootstrap.embedding import open_embedding
from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.migrate import check_migrated, migrate
from palaver_server.database.pool import Pool
from palaver_server.database.readiness import wait_for_database
from palaver_server.database.url import with_timeouts

_CONNECT_TIMEOUT_SECONDS = 30.0


async def prepare_schema(settings: Settings, database_url: str) -> None:
    """Wait for the database of a server, and migrate it or check that it is migrated.

    Raises:
        DatabaseUnusable: The database is unreachable, refuses the user, lacks rights, or was
            migrated differently.
        DatabaseTooNew: The database belongs to a newer Palaver.
    """
    seconds = settings.database_wait_seconds
    await wait_for_database(with_timeouts(database_url), seconds=seconds)
    if settings.no_migrate or settings.read_only:
        await check_migrated(with_timeouts(database_url))
    else:
        await migrate(migration_url(settings, database_url), wait_seconds=seconds)


async def prepare_database(settings: DatabaseSettings, database_url: str) -> list[str]:
    """Prepare a database for the service, and return the names of the migrations that were run.

    Raises:
        DatabaseUnusable: As `prepare_schema`.
        DatabaseTooNew: The database belongs to a newer Palaver.
    """
    url = migration_url(settings, database_url)
    await wait_for_database(url, seconds=settings.database_wait_seconds)
    names = await migrate(url, wait_seconds=settings.database_wait_seconds)
    pool = Pool(url, min_size=1, max_size=1, timeout=_CONNECT_TIMEOUT_SECONDS)
    async with opened(pool), open_embedding(settings, url, pool):
        return names
