"""Migrations of empty and current databases, by one server or by several at the same time."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from palaver_server.bootstrap import server as app
from palaver_server.cli.main import main
from palaver_server.config import Settings
from palaver_server.database import migrate as migrations
from palaver_server.database.migrate import Migration, known_migrations, migrate
from palaver_server.errors import DatabaseTooNew
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.ledger import audit_tables
from tests.support.processes import ROOT

KNOWN = known_migrations()
MIGRATIONS = ROOT / "server/palaver_server/database/migrations"
MIGRATIONS = ROOT / "server/palaver_server/database/migrations"
NAMES = [migration.name for migration in KNOWN]


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Connection]:
    """A connection to the empty database, in autocommit mode."""
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        yield connection


def tables(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows}


def record(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute("SELECT * FROM schema_migrations ORDER BY version").fetchall()


def recorded_names(connection: Connection) -> list[str]:
    return [name for _, name, _ in record(connection)]


def test_migration_files_are_numbered_without_gaps() -> None:
    names = sorted(file.name for file in MIGRATIONS.iterdir())

    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    assert all(re.fullmatch(r"\d{4}(_[a-z0-9]+){2,}\.sql", name) for name in names)
    assert [f"{name}.sql" for name in NAMES] == names
    assert [migration.version for migration in KNOWN] == list(range(1, len(names) + 1))


def test_migrations_of_empty_database_all_run_once(
    run: Run, empty_database_url: str, empty: Connection
) -> None:
    assert run(migrate(empty_database_url)) == NAMES
    after_the_first = (tables(empty), record(empty))

    assert run(migrate(empty_database_url)) == []
    assert (tables(empty), record(empty)) == after_the_first
    assert tables(empty) >= {"sessions", "messages", "users"}
    assert recorded_names(empty) == NAMES


@pytest.mark.slow
def test_migrations_by_simultaneous_starts_all_succeed(
    run: Run, empty_database_url: str, empty: Connection
) -> None:
    for _ in range(3):
        empty.execute("DROP SCHEMA public CASCADE")
        empty.execute("CREATE SCHEMA public")

        run(serve_at_once(empty_database_url, servers=4))

        assert recorded_names(empty) == NAMES


async def serve_at_once(database_url: str, *, servers: int) -> None:
    """Start servers, and stop them when all of them serve."""
    all_serve = asyncio.Barrier(servers)
    given: dict[str, Any] = {"listen": "127.0.0.1:0", "pool_min_size": 1}
    settings = Settings(**given)

    async def serve() -> None:
        async with app.running(settings, database_url):
            await all_serve.wait()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(servers):
            group.create_task(serve())


def test_migrate_runs_only_missing_migrations(
    run: Run, database_url: str, database: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = Migration(len(KNOWN) + 1, "add_a_table", "CREATE TABLE a_table ()")
    monkeypatch.setattr(migrations, "known_migrations", lambda: [*KNOWN, added])

    assert run(migrate(database_url)) == ["add_a_table"]
    assert "a_table" in tables(database)
    assert recorded_names(database) == [*NAMES, "add_a_table"]


def test_migration_that_fails_is_rolled_back_alone(
    run: Run, empty_database_url: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Migration(1, "whole", "CREATE TABLE whole ()")
    half = Migration(2, "half", "CREATE TABLE half (); SELECT 1 / 0")
    after = Migration(3, "after", "CREATE TABLE after ()")
    monkeypatch.setattr(migrations, "known_migrations", lambda: [whole, half, after])

    with pytest.raises(Exception, match="division by zero"):
        run(migrate(empty_database_url))

    assert tables(empty) == {"schema_migrations", "whole"}
    assert recorded_names(empty) == ["whole"]


def test_migration_to_users_creates_placeholders(
    run: Run, empty_database_url: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrations, "known_migrations", lambda: KNOWN[:1])
    run(migrate(empty_database_url))
    empty.execute(
        """
        INSERT INTO sessions (session_id, user_id, created_at, deleted_at) VALUES
            ('s1', 'bob', '2025-01-02Z', NULL), ('s2', 'ada', '2025-01-03Z', NULL),
            ('s3', 'bob', '2025-01-01Z', NULL), ('s4', NULL, '2025-01-01Z', NULL),
            ('s5', 'who may come back', '2025-01-05Z', now())
        """
    )
    monkeypatch.undo()

    assert run(migrate(empty_database_url)) == NAMES[1:]

    users = empty.execute(
        "SELECT user_id, filled_in, email, extract(day FROM created_at AT TIME ZONE 'UTC'),"
        " updated_at = created_at FROM users ORDER BY id"
    ).fetchall()
    assert users == [
        ("bob", False, "", 1, True),
        ("ada", False, "", 3, True),
        ("who may come back", False, "", 5, True),
    ]
    audit_tables(empty)


def test_migrations_newer_than_the_program_are_refused(
    run: Run, database_url: str, database: Connection
) -> None:
    database.execute("INSERT INTO schema_migrations VALUES (9999, '9999_from_the_future')")

    with pytest.raises(DatabaseTooNew, match=f"9999.*{len(KNOWN)}.*newer"):
        run(migrate(database_url))

    variables = {"PALAVER_DATABASE_URL": database_url, "PALAVER_LOG_FORMAT": "text"}
    for command in ("serve", "migrate"):
        result = CliRunner(env=variables).invoke(main, [command])
        assert result.exit_code == 1
        assert re.fullmatch(r"Error: .*9999.*newer version\n", result.output)
    assert recorded_names(database) == [*NAMES, "9999_from_the_future"]
