"""The preparation of a database without serving: `palaver migrate`."""

from palaver_server.bootstrap.database import opened
from palaver_server.bootstrap.embedding import open_embedding
from palaver_server.config import DatabaseSettings
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
