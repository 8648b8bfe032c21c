"""Migrations: numbered SQL files, each applied once, in order, in a transaction of its own.

The table `schema_migrations` records each with a hash of its SQL. Nothing outlives a transaction,
not even the lock, so that migrations work through a connection pooler too.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, LiteralString, TypeAlias

from psycopg import AsyncConnection, Error
from psycopg.errors import LockNotAvailable

from palaver_server.database.error_translation import start_failure
from palaver_server.database.sql_script import script_hash, statements
from palaver_server.errors import DatabaseTooNew, DatabaseUnusable

_LOGGER = logging.getLogger(__name__)

Connection: TypeAlias = AsyncConnection[tuple[Any, ...]]

_LOCK_INTERVAL_SECONDS = 0.5


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


# Servers that start together migrate a schema one at a time. Servers of the version before hold the
# same lock for their session.
_LOCK = """
    SELECT pg_try_advisory_xact_lock(hashtextextended('palaver migrate ' || current_schema(), 0))
"""

# A role or database may have a timeout that a migration of large tables would exceed. Waits for
# locks are short, and repeated: calls of running servers queue behind a table lock that is awaited.
_SET_TIMEOUTS = "SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '2s'"

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

# By way of JSON: the column of the hash is itself added by a migration.
_APPLIED = "SELECT version, to_jsonb(m) ->> 'sql_hash' FROM schema_migrations m"

_RECORD = "INSERT INTO schema_migrations (version, name) VALUES (%(version)s, %(name)s)"

_HAS_HASHES = """
    SELECT EXISTS (
        SELECT 1 FROM pg_attribute
        WHERE attrelid = 'schema_migrations'::regclass AND attname = 'sql_hash'
    )
"""

_RECORD_HASH = """
    UPDATE schema_migrations SET sql_hash = %(hash)s
    WHERE version = %(version)s AND sql_hash IS NULL
"""


async def migrate(database_url: str, *, wait_seconds: float = 30) -> list[str]:
    """Apply the missing migrations. Safe to run from several servers at once.

    Args:
        database_url: The database, and the role that owns the schema.
        wait_seconds: Maximum wait for another server that is migrating, or another transaction
            that holds what a migration changes.

    Returns:
        The names of the applied migrations, in order.

    Raises:
        DatabaseTooNew: The database has migrations that this version does not know.
        DatabaseUnusable: The database is unreachable, refuses the user, the user lacks
            privileges, another server or transaction is in the way for too long, or the
            migrations that were applied are not those of this version.
    """
    names = []
    async with _Database(database_url) as connection:
        while missing := await _find_missing(connection):
            name = await _apply(connection, missing[0], wait_seconds=wait_seconds)
            names += [name] if name else []
    return names


async def check_migrated(database_url: str) -> None:
    """Check that all migrations were applied, without changing anything.

    Raises:
        DatabaseTooNew: As `migrate`.
        DatabaseUnusable: As `migrate`, or a migration is missing.
    """
    async with _Database(database_url) as connection:
        if missing := await _find_missing(connection):
            names = ", ".join(migration.name for migration in missing)
            raise DatabaseUnusable(
                f"the database lacks migrations ({names}): run palaver migrate first, or start a"
                " server without --no-migrate and --read-only"
            )


class _Database:
    """A connection for a block, whose driver errors leave the block as DatabaseUnusable."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url

    async def __aenter__(self) -> Connection:
        try:
            # Nothing is prepared: a pooler may run each transaction on another session.
            self._connection = await AsyncConnection.connect(
                self._database_url, autocommit=True, prepare_threshold=None
            )
        except Error as error:
            raise DatabaseUnusable(f"cannot use the database: {error}") from error
        return self._connection

    async def __aexit__(self, _type: object, error: BaseException | None, _trace: object) -> None:
        user = "" if self._connection.closed else self._connection.info.user
        await self._connection.close()
        if isinstance(error, Error):
            raise start_failure(error, user) from error


async def _find_missing(connection: Connection) -> list[Migration]:
    """Return the known migrations that were not applied; refuse a schema of another history."""
    if await _fetch_value(connection, "SELECT current_schema()") is None:
        path = await _fetch_value(connection, "SELECT current_setting('search_path')")
        raise DatabaseUnusable(
            f"user {connection.info.user} may use no schema of its search path ({path}): set"
            " search_path, or run GRANT USAGE ON SCHEMA; then run palaver migrate"
        )
    applied: Mapping[int, str | None] = {}
    if await _fetch_value(connection, _TABLE_EXISTS):
        applied = dict(await (await connection.execute(_APPLIED)).fetchall())
    known = known_migrations()
    last = max(applied, default=0)
    if last > known[-1].version:
        raise DatabaseTooNew(found=last, known=known[-1].version)
    missing = [migration for migration in known if migration.version not in applied]
    skipped = [migration.name for migration in missing if migration.version < last]
    if skipped:
        raise DatabaseUnusable(
            f"the database has migration {last}, but lacks earlier ones ({', '.join(skipped)}):"
            " its schema is incomplete; restore it, with schema_migrations, from a backup"
        )
    changed = [
        migration.name
        for migration in known
        if applied.get(migration.version) not in (None, script_hash(migration.sql))
    ]
    if changed:
        raise DatabaseUnusable(
            f"the database was migrated by other SQL than this version's ({', '.join(changed)}):"
            " run the build of Palaver that migrated it"
        )
    return missing


async def _apply(
    connection: Connection, migration: Migration, *, wait_seconds: float
) -> str | None:
    """Apply a migration, and return its name; None if another server has applied it meanwhile."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait_seconds
    has_logged = False
    while True:
        try:
            async with connection.transaction():
                if await _fetch_value(connection, _LOCK):
                    if migration not in await _find_missing(connection):
                        return None
                    await _run(connection, migration)
                    break
            obstacle = "another server is migrating the database"
        except LockNotAvailable:
            obstacle = (
                f"another transaction, such as a backup, locks what migration {migration.name}"
                " changes (pg_stat_activity shows it)"
            )
        if not has_logged:
            _LOGGER.warning("%s; waiting up to %g s", obstacle, wait_seconds)
            has_logged = True
        if loop.time() >= deadline:
            raise DatabaseUnusable(
                f"{obstacle}, for more than {wait_seconds:g} s: start again when it is done, or set"
                " PALAVER_DATABASE_WAIT_SECONDS higher"
            )
        await asyncio.sleep(_LOCK_INTERVAL_SECONDS)
    _LOGGER.info("ran migration %s", migration.name)
    return migration.name


async def _run(connection: Connection, migration: Migration) -> None:
    """Run a migration statement by statement, as some databases on PostgreSQL's protocol need."""
    await connection.execute(_SET_TIMEOUTS)
    if not await _fetch_value(connection, _TABLE_EXISTS):
        await connection.execute(_CREATE_TABLE)
    for statement in statements(migration.sql):
        await connection.execute(statement.encode())
    await connection.execute(_RECORD, {"version": migration.version, "name": migration.name})
    if await _fetch_value(connection, _HAS_HASHES):
        await _record_hashes(connection, up_to=migration.version)


async def _record_hashes(connection: Connection, *, up_to: int) -> None:
    """Record the hashes of migrations, also of those from before there were hashes."""
    for migration in known_migrations():
        if migration.version <= up_to:
            values = {"version": migration.version, "hash": script_hash(migration.sql)}
            await connection.execute(_RECORD_HASH, values)


async def _fetch_value(connection: Connection, query: LiteralString) -> Any:
    row = await (await connection.execute(query)).fetchone()
    return row[0] if row else None
