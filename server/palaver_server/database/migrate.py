"""Migrations: numbered SQL files, each applied once, in order, in a transaction of its own."""

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
    """Return the migrations in this package, in order."""
    files = resources.files("palaver_server.database").joinpath("migrations").iterdir()
    return [
        Migration(int(file.name[:4]), file.name.removesuffix(".sql"), file.read_text("utf-8"))
        for file in sorted(files, key=lambda file: file.name)
        if file.name.endswith(".sql")
    ]


# Held until the connection closes: servers that start together migrate a schema one at a time.
_LOCK = "SELECT pg_advisory_lock(hashtextextended('palaver migrate ' || current_schema(), 0))"

# Checked before CREATE TABLE, so that a server needs no privilege to create tables in an up-to-date
# schema. In the schema where new tables go: another one on the search path may have its own.
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
    """Apply the missing migrations. Safe to run from several servers at once.

    Returns:
        The names of the applied migrations, in order.

    Raises:
        DatabaseTooNew: The database has migrations that this version does not know.
        DatabaseUnusable: The database is unreachable, refuses the user, or the user lacks
            privileges.
    """
    try:
        async with await AsyncConnection.connect(database_url, autocommit=True) as connection:
            await connection.execute(_LOCK)
            if not await _fetch_value(connection, _TABLE_EXISTS):
                await connection.execute(_CREATE_TABLE)
            return await _apply_missing(connection)
    except Error as error:
        reason = error.diag.message_primary or str(error)
        raise DatabaseUnusable(f"cannot use the database: {reason}") from error


async def _apply_missing(connection: AsyncConnection[tuple[Any, ...]]) -> list[str]:
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
