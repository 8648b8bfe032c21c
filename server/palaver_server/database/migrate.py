"""Migrations: numbered SQL files, each run once, in order, in a transaction of its own."""

import logging
from dataclasses import dataclass
from importlib import resources
from typing import Any, LiteralString

from psycopg import AsyncConnection, Error

from palaver_server.errors import DatabaseTooNew, DatabaseUnusable

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Migration:
    """A file `migrations/NNNN_verb_noun.sql`; `version` is its number."""

    version: int
    name: str
    sql: str


def known_migrations() -> list[Migration]:
    """Reads the migrations of this program, in order."""
    files = resources.files("palaver_server.database").joinpath("migrations").iterdir()
    return [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


# Servers that start at once on one schema wait for each other.
_LOCK = "SELECT pg_advisory_lock(hashtextextended('palaver migrate ' || current_schema(), 0))"

# Asked first, so that a server on an up-to-date schema needs no right to change it; and of
# the schema where tables go, since another one of the search path may have its own.
_TABLE_EXISTS = """
    SELECT to_regclass(quote_ident(current_schema()) || '.schema_migrations') IS NOT NULL
"""

_CREATE_TABLE = """
    CREATE TABLE schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""

_LAST_VERSION = "SELECT coalesce(max(version), 0) FROM schema_migrations"

_RECORD = "INSERT INTO schema_migrations (version, name) VALUES (%(version)s, %(name)s)"


async def migrate(database_url: str) -> list[str]:
    """Brings a database up to date. Safe to run from several servers at once.

    Returns:
        The names of the migrations that were run, in order.

    Raises:
        DatabaseTooNew: The database has migrations that this program does not know.
        DatabaseUnusable: The database is away, refuses the user, or lacks rights.
    """
    try:
        async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(_LOCK)  # held until the connection closes
            if not await _fetch_value(connection, _TABLE_EXISTS):
                await connection.execute(_CREATE_TABLE)
            return await _run_missing(connection)
    except Error as error:
        reason = error.diag.message_primary or str(error)
        raise DatabaseUnusable(f"cannot use the database: {reason}") from error


async def _run_missing(connection: AsyncConnection[tuple[Any, ...]]) -> list[str]:
    last_version = await _fetch_value(connection, _LAST_VERSION)
    migrations = known_migrations()
    if last_version > migrations[-1].version:
        raise DatabaseTooNew(found=last_version, known=migrations[-1].version)
    missing = [migration for migration in migrations if migration.version > last_version]
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.sql.encode())
            await connection.execute(
                _RECORD, {"version": migration.version, "name": migration.name}
            )
        _LOGGER.info("ran migration %s", migration.name)
    return [migration.name for migration in missing]


async def _fetch_value(connection: AsyncConnection[tuple[Any, ...]], query: LiteralString) -> Any:
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None
