"""Translation of the driver's errors: database unavailable, or a bug."""

import asyncio

import psycopg
import pytest
from psycopg import Rollback, sql

from palaver_server.database.error_translation import domain_error, loggable_reason
from palaver_server.database.pool import Pool
from palaver_server.errors import DatabaseUnavailable
from tests.conftest import Run
from tests.support.client import wait_until
from tests.support.concurrency import Connection

# The database is unreachable, starting, stopping or full: the caller may retry.
UNAVAILABLE = {
    "08000": "connection exception",
    "08003": "connection does not exist",
    "08006": "connection failure",
    "25006": "read-only transaction: a standby, after a failover",
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "26000": "invalid statement name: prepared in another session, behind a pooler",
    "42501": "insufficient privilege: revoked",
    "42P01": "undefined table: a right on its schema was revoked",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57P01": "admin shutdown",
    "57P02": "crash shutdown",
    "57P03": "cannot connect now",
    "57P05": "idle session timeout: the connection is lost",
    "25P03": "idle in transaction timeout: the connection is lost",
}

# A retry does not help.
BUGS = {
    "22001": "string data right truncation",
    "22P05": "untranslatable character",
    "23502": "not null violation",
    "23505": "unique violation",
    "25P02": "in failed transaction",
    "42601": "syntax error",
    "XX000": "internal error",
}


async def became(pool: Pool, sqlstate: str) -> type[BaseException]:
    """Let the database raise an error, and return its translation."""
    raising = sql.SQL("DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = {}; END $$")
    with pytest.raises((DatabaseUnavailable, psycopg.Error)) as raised:
        async with pool.connection() as connection:
            await connection.execute(raising.format(sql.Literal(sqlstate)))
    cause = raised.value.__cause__ or raised.value
    assert isinstance(cause, psycopg.Error)
    assert cause.sqlstate == sqlstate
    return raised.type


def test_error_that_is_temporary_becomes_unavailable(pool: Pool, run: Run) -> None:
    became_so = {state for state in UNAVAILABLE if run(became(pool, state)) is DatabaseUnavailable}

    assert became_so == UNAVAILABLE.keys()


def test_error_that_is_permanent_is_a_bug(pool: Pool, run: Run) -> None:
    became_unavailable = {
        state for state in BUGS if run(became(pool, state)) is DatabaseUnavailable
    }

    assert became_unavailable == set()


def test_error_of_connecting_becomes_unavailable() -> None:
    with pytest.raises(psycopg.OperationalError) as raised:
        psycopg.connect("host=/nonexistent dbname=palaver")

    assert isinstance(domain_error(raised.value), DatabaseUnavailable)


def test_error_of_other_kind_passes_through(pool: Pool, run: Run) -> None:
    async def fail() -> None:
        async with pool.connection():
            raise KeyError

    with pytest.raises(KeyError):
        run(fail())


def test_error_of_idle_timeout_is_no_bug(pool: Pool, run: Run, database: Connection) -> None:
    async def use_after_a_while() -> None:
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
            await connection.execute("SET idle_session_timeout = 1")
            await asyncio.to_thread(wait_until, lambda: has_ended(database, pid))
            await connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        run(use_after_a_while())


def has_ended(database: Connection, pid: int) -> bool:
    return not database.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]).fetchall()


def test_error_of_cut_connection_becomes_unavailable(
    pool: Pool, run: Run, database: Connection
) -> None:
    async def read_over_a_cut_connection() -> None:
        async with pool.connection() as connection:
            pid = connection.info.backend_pid
            database.execute("SELECT pg_terminate_backend(%s)", [pid])
            await connection.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable):
        run(read_over_a_cut_connection())


async def logged(pool: Pool, statement: str) -> str:
    """Let the database raise an error; return what the log says of it."""
    async with pool.connection() as connection, connection.transaction():
        await connection.execute("SET LOCAL ROLE pg_monitor")
        with pytest.raises(psycopg.Error) as raised:
            await connection.execute(statement)
        raise Rollback
    return loggable_reason(raised.value)


def test_loggable_reason_of_a_missing_right_names_the_table(pool: Pool, run: Run) -> None:
    reason = run(logged(pool, "DELETE FROM messages WHERE content = 'secret'"))

    assert reason == "permission denied for table messages"


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT 'secret'::integer", "InvalidTextRepresentation, SQLSTATE 22P02"),
        ("SELECT 'secret & '::tsquery", "SyntaxError, SQLSTATE 42601"),
    ],
)
def test_loggable_reason_of_an_error_that_quotes_a_value_omits_it(
    pool: Pool, run: Run, statement: str, reason: str
) -> None:
    assert run(logged(pool, statement)) == reason


def test_loggable_reason_of_a_domain_error_is_its_text() -> None:
    assert loggable_reason(DatabaseUnavailable()) == str(DatabaseUnavailable())
