"""Migrations of empty and current databases, by one server or by several at the same time."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.conninfo import make_conninfo

from palaver_server.bootstrap import server as app
from palaver_server.cli.main import main
from palaver_server.config import Settings
from palaver_server.database import migrate as migrations
from palaver_server.database.migrate import Migration, known_migrations, migrate
from palaver_server.database.sql_script import script_hash, statements
from palaver_server.errors import DatabaseTooNew, DatabaseUnusable
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.model.tables import audit_tables
from tests.support.processes import ROOT

KNOWN = known_migrations()
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
    return [name for _, name, *_ in record(connection)]


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


def test_every_table_has_a_primary_key_for_logical_replication(database: Connection) -> None:
    without = database.execute(
        """
        SELECT relname FROM pg_class c
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND NOT EXISTS (
            SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'p'
        )
        """
    )
    assert without.fetchall() == []


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


def test_migrations_with_a_gap_are_refused(
    run: Run, database_url: str, database: Connection
) -> None:
    database.execute("DELETE FROM schema_migrations WHERE version = 2")

    with pytest.raises(DatabaseUnusable, match=f"lacks earlier ones .{NAMES[1]}.*backup"):
        run(migrate(database_url))


def test_migrations_of_other_sql_are_refused(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Migration(1, NAMES[0], KNOWN[0].sql.replace("text NOT NULL", "text", 1))
    monkeypatch.setattr(migrations, "known_migrations", lambda: [first, *KNOWN[1:]])

    with pytest.raises(DatabaseUnusable, match=f"other SQL.*{NAMES[0]}"):
        run(migrate(database_url))


def test_migrations_with_other_comments_and_layout_are_accepted(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = re.sub(r"--.*", "", KNOWN[0].sql).replace("(", " (\n  ")
    first = Migration(1, NAMES[0], "-- Reworded.\n" + sql)
    monkeypatch.setattr(migrations, "known_migrations", lambda: [first, *KNOWN[1:]])

    assert run(migrate(database_url)) == []


def test_migrations_recorded_before_there_were_hashes_are_adopted(
    run: Run, empty_database_url: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [migration for migration in KNOWN if migration.version < 6]
    monkeypatch.setattr(migrations, "known_migrations", lambda: before)
    run(migrate(empty_database_url))
    monkeypatch.undo()

    run(migrate(empty_database_url))

    hashes = empty.execute("SELECT sql_hash FROM schema_migrations ORDER BY version").fetchall()
    assert hashes == [(script_hash(migration.sql),) for migration in KNOWN]


def test_migration_waits_for_another_server_and_says_so(
    run: Run, empty_database_url: str, empty: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    with empty.transaction():
        empty.execute(migrations._LOCK)
        with pytest.raises(DatabaseUnusable, match=r"another server is migrating .* for more than"):
            run(migrate(empty_database_url, wait_seconds=0.1))

    assert "another server is migrating the database" in caplog.text
    assert run(migrate(empty_database_url, wait_seconds=0.1)) == NAMES


def test_migration_waits_for_transactions_that_lock_its_tables_and_says_so(
    run: Run,
    empty_database_url: str,
    empty: Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    change = Migration(1, "change", "ALTER TABLE dumped ADD COLUMN value integer")
    monkeypatch.setattr(migrations, "known_migrations", lambda: [change])
    empty.execute("CREATE TABLE dumped ()")
    with empty.transaction():
        empty.execute("LOCK TABLE dumped IN ACCESS SHARE MODE")  # as pg_dump does
        with pytest.raises(DatabaseUnusable, match="such as a backup, locks what migration change"):
            run(migrate(empty_database_url, wait_seconds=0.1))

    assert "waiting up to 0.1 s" in caplog.text
    assert run(migrate(empty_database_url, wait_seconds=0.1)) == ["change"]


def test_migration_leaves_no_lock_on_a_connection_that_a_pooler_keeps(
    run: Run, empty_database_url: str, empty: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing: list[int] = []

    async def count_locks(self: Any) -> None:
        rows = empty.execute("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'").fetchall()
        closing.append(len(rows))
        await close(self)

    close = psycopg.AsyncConnection.close
    monkeypatch.setattr(psycopg.AsyncConnection, "close", count_locks)
    run(migrate(empty_database_url))

    assert closing == [0]


def test_migration_outlasts_the_statement_timeout_of_its_role(
    run: Run, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Migration(1, "slow", "SELECT pg_sleep(0.05); SELECT pg_sleep(0.05)")
    monkeypatch.setattr(migrations, "known_migrations", lambda: [slow])

    url = make_conninfo(empty_database_url, options="-cstatement_timeout=20")
    assert run(migrate(url)) == ["slow"]


def test_serve_without_migrations_refuses_a_database_that_lacks_any(
    run: Run, database_url: str, database: Connection
) -> None:
    run(serve_once(database_url, no_migrate=True))

    database.execute("DELETE FROM schema_migrations WHERE version = %s", [len(KNOWN)])
    with pytest.raises(DatabaseUnusable, match=f"lacks migrations .{NAMES[-1]}.*palaver migrate"):
        run(serve_once(database_url, no_migrate=True))


def test_serve_migrates_over_the_url_for_migrations(
    run: Run, empty_database_url: str, empty: Connection
) -> None:
    url = make_conninfo(empty_database_url, application_name="owner")
    empty.execute("CREATE TABLE writers (name text)")
    empty.execute(
        """
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO writers VALUES (current_setting('application_name')); END $$
        """
    )
    empty.execute("CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note()")

    run(serve_once(empty_database_url, database_url="postgresql:///x", migration_database_url=url))

    assert empty.execute("SELECT DISTINCT name FROM writers").fetchall() == [("owner",)]


async def serve_once(url: str, **settings: Any) -> None:
    """Start a server, and stop it."""
    given = {"listen": "127.0.0.1:0", "embedder": "none", "database_wait_seconds": 0, **settings}
    async with app.running(Settings(**given), url):
        pass


@pytest.mark.parametrize(
    ("script", "parts"),
    [
        ("", []),
        ("-- nothing;\n ; ;", []),
        ("SELECT 1; SELECT ';' ;", ["SELECT 1", "SELECT ';'"]),
        (
            "SELECT 'it''s; ' -- no; end\n, 2;SELECT 3",
            ["SELECT 'it''s; ' -- no; end\n, 2", "SELECT 3"],
        ),
        ("SELECT CASE WHEN a THEN b END; SELECT 1", ["SELECT CASE WHEN a THEN b END", "SELECT 1"]),
        ("DO $$ BEGIN a; END; $$; SELECT 1", ["DO $$ BEGIN a; END; $$", "SELECT 1"]),
        ("DO $a$ $$ ; $a$; SELECT 1", ["DO $a$ $$ ; $a$", "SELECT 1"]),
        (
            "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 END; SELECT 1; END;x",
            [
                "CREATE FUNCTION f() BEGIN ATOMIC SELECT CASE a WHEN 1 THEN 2 END; SELECT 1; END",
                "x",
            ],
        ),
    ],
)
def test_script_is_split_at_the_ends_of_its_statements(script: str, parts: list[str]) -> None:
    assert list(statements(script)) == parts


def test_script_hash_tells_apart_all_but_comments_and_white_space() -> None:
    same = ["SELECT a, 'b  c';", "SELECT a,'b  c' ;\n", "-- x\nSELECT a /* y */\n, 'b  c';"]
    other = ["SELECT a, 'b c';", "SELECT A, 'b  c';", "SELECT a 'b  c';", "SELECTa, 'b  c';"]

    assert len({script_hash(script) for script in same}) == 1
    assert len({script_hash(script) for script in [same[0], *other]}) == 1 + len(other)
