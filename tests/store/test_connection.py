"""Connections: prepared statements, results, and errors."""

import asyncio
import random
from collections.abc import Coroutine, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from palaver_server.database.connection import Connection
from palaver_server.database.error_translation import domain_error
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.database.timestamps import as_datetime
from palaver_server.errors import DatabaseUnavailable
from tests.conftest import Run
from tests.support.watching import eventually


def statement(sql: str, *, is_prepared: bool = True) -> Statement:
    return Statement("test", sql, is_prepared=is_prepared)


PREPARED = statement("SELECT statement FROM pg_prepared_statements", is_prepared=False)


@pytest.fixture
def connection(database_url: str, run: Run) -> Iterator[Connection]:
    connection = run(Connection.connect(database_url))
    connection.prepares = True
    yield connection
    run(connection.close())


def prepared(connection: Connection, run: Run) -> list[str]:
    """Return the prepared statements, without the one that asks for them."""
    return [text for (text,) in run(connection.fetch(PREPARED))]


def test_connection_parameter_names_may_repeat(connection: Connection, run: Run) -> None:
    subtract = statement("SELECT %(a)s::int - %(b)s::int, %(a)s::int, 7 %% 4, %(c)b::text")

    rows = run(connection.fetch(subtract, {"a": 5, "b": 3, "c": "%(a)s", "unused": 1}))

    assert rows == [(2, 5, 3, "%(a)s")]


def test_connection_returns_first_row_or_none(connection: Connection, run: Run) -> None:
    series = statement("SELECT n FROM generate_series(1, %(n)s) n ORDER BY n")

    assert run(connection.fetch_one(series, {"n": 3})) == (1,)
    assert run(connection.fetch_one(series, {"n": 0})) is None


def test_connection_statement_without_rows_returns_none(connection: Connection, run: Run) -> None:
    assert run(connection.fetch(statement("SET application_name = 'x'"))) == []


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata"])
def test_connection_times_are_independent_of_time_zone(
    connection: Connection, run: Run, zone: str
) -> None:
    time = datetime(2026, 11, 21, 12, 30, 0, 123_456, UTC)
    run(connection.fetch(statement(f"SET TimeZone = '{zone}'")))

    row = run(connection.fetch_one(statement("SELECT %(time)s::timestamptz"), {"time": time}))

    assert row is not None
    assert as_datetime(row[0]) == time


@pytest.mark.parametrize("values", [(1, 40_000, 2**31, 2**62), ("a", None, "b", "")])
def test_connection_prepares_statement_once(
    connection: Connection, run: Run, values: tuple[Any, ...]
) -> None:
    type_of = "bigint" if isinstance(values[0], int) else "text"
    select = statement(f"SELECT %(value)s::{type_of}, %(values)s::{type_of}[]")

    for value in values:
        row = run(connection.fetch_one(select, {"value": value, "values": [value, value]}))
        assert row == (value, [value, value])

    assert len(prepared(connection, run)) == 1


def test_connection_does_not_prepare_statement_marked_unprepared(
    connection: Connection, run: Run
) -> None:
    unprepared = statement("SELECT %(n)s::int", is_prepared=False)

    assert run(connection.fetch(unprepared, {"n": 1})) == [(1,)]

    assert prepared(connection, run) == []


def test_connection_template_with_same_parts_is_prepared_once(
    connection: Connection, run: Run
) -> None:
    template = StatementTemplate("test", "SELECT {what}, %(n)s::int")

    for what in ("1", "2", "1"):
        assert run(connection.fetch(template.fill(what=what), {"n": 3})) == [(int(what), 3)]

    assert len(prepared(connection, run)) == 2
    assert template.fill(what="1") is not template.fill(is_prepared=False, what="1")


def test_connection_returns_number_of_changed_rows(connection: Connection, run: Run) -> None:
    insert = statement("INSERT INTO users (user_id) SELECT generate_series(1, %(n)s)::text")

    assert run(connection.run(insert, {"n": 3})) == 3
    assert run(connection.run(statement("SET application_name = 'x'"))) == 0


def test_connection_error_is_raised_like_psycopg_and_affects_no_other(
    connection: Connection, run: Run
) -> None:
    divide = statement("SELECT 1 / %(n)s::int")

    with pytest.raises(psycopg.errors.DivisionByZero) as raised:
        run(connection.fetch(divide, {"n": 0}))
    with pytest.raises(psycopg.errors.UndefinedTable):
        run(connection.fetch(statement("SELECT FROM no_such_table")))

    assert raised.value.diag.message_primary == "division by zero"
    assert run(connection.fetch(divide, {"n": 1})) == [(1,)]


def test_connection_prepared_statements_outlive_rollback(connection: Connection, run: Run) -> None:
    select = statement("SELECT %(n)s::int")

    async def fetch_and_roll_back() -> None:
        async with connection.transaction(force_rollback=True):
            for _ in range(10):  # often enough for psycopg to prepare it too
                await connection.execute("SELECT %(n)s::int", {"n": 1})
            await connection.fetch(select, {"n": 1})

    run(fetch_and_roll_back())

    assert run(connection.fetch(select, {"n": 2})) == [(2,)]
    assert len(prepared(connection, run)) == 1


def test_connection_runs_statement_unprepared_where_it_was_lost(
    connection: Connection, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    select = statement("SELECT %(n)s::int")
    run(connection.fetch(select, {"n": 1}))
    run(connection.execute("DEALLOCATE ALL"))

    for number in (2, 3):
        assert run(connection.fetch(select, {"n": number})) == [(number,)]

    assert prepared(connection, run) == []
    assert caplog.text.count("PALAVER_PREPARED_STATEMENTS=off") == 1


def test_connection_transaction_that_lost_a_prepared_statement_can_run_again(
    connection: Connection, run: Run
) -> None:
    select = statement("SELECT %(n)s::int")
    run(connection.fetch(select, {"n": 1}))
    run(connection.execute("DEALLOCATE ALL"))

    async def fetch_in_transaction() -> list[Any]:
        async with connection.in_transaction():
            return await connection.fetch(select, {"n": 2})

    with pytest.raises(psycopg.errors.InvalidSqlStatementName) as raised:
        run(fetch_in_transaction())

    assert isinstance(domain_error(raised.value), DatabaseUnavailable)
    assert run(fetch_in_transaction()) == [(2,)]


def test_connection_never_runs_what_others_prepared_under_its_names(
    database_url: str, run: Run
) -> None:
    async def name_prepared_by_a_new_connection() -> str:
        async with await Connection.connect(database_url) as connection:
            connection.prepares = True
            await connection.fetch(statement("SELECT 1"))
            ((name,),) = await connection.fetch(
                statement("SELECT name FROM pg_prepared_statements", is_prepared=False)
            )
            return str(name)

    names = {run(name_prepared_by_a_new_connection()) for _ in range(3)}

    assert len(names) == 3


def test_connection_transaction_has_the_timeouts_and_leaves_none(
    database_url: str, run: Run
) -> None:
    connection = run(limited(7).connect(database_url))
    show = statement(
        "SELECT current_setting('statement_timeout'),"
        " current_setting('idle_in_transaction_session_timeout')"
    )

    async def show_in_transaction() -> list[Any]:
        async with connection.in_transaction():
            return await connection.fetch(show)

    assert run(show_in_transaction()) == [("7s", "7s")]
    assert run(connection.fetch(show)) == [("0", "0")]
    run(connection.close())


def limited(seconds: float) -> type[Connection]:
    """Return a class of connections with a statement timeout."""

    class LimitedConnection(Connection):
        statement_timeout = seconds

    return LimitedConnection


def test_connection_statement_ends_at_its_timeout(database_url: str, run: Run) -> None:
    connection = run(limited(0.05).connect(database_url))

    async def outlast_the_timeout() -> None:
        task = asyncio.current_task()
        for _ in range(3):
            with pytest.raises(psycopg.errors.QueryCanceled):
                await connection.fetch(statement("SELECT pg_sleep(600)"))
            assert task
            assert not task.cancelling()
            assert await connection.fetch(statement("SELECT 1")) == [(1,)]

    run(outlast_the_timeout())
    run(connection.close())


def test_connection_statement_cancelled_by_its_caller_has_not_timed_out(
    database_url: str, run: Run, database: psycopg.Connection[Any]
) -> None:
    connection = run(limited(60).connect(database_url))
    sleeping = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = %s"
    pid = [connection.info.backend_pid]

    async def cancel() -> None:
        waiting = asyncio.create_task(connection.fetch(statement("SELECT pg_sleep(600)")))
        await asyncio.to_thread(
            eventually, lambda: database.execute(sleeping, pid).fetchall(), "it sleeps"
        )
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await connection.fetch(statement("SELECT 1")) == [(1,)]

    run(cancel())
    run(connection.close())


def test_connection_cancelled_statement_can_run_again(connection: Connection, run: Run) -> None:
    choose = random.Random(7)

    async def cancel(work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        await asyncio.sleep(choose.random() / 1000)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def cancel_and_run_again() -> None:
        for number in range(200):
            add = statement(f"SELECT %(n)s::int + {number}")
            await cancel(connection.fetch(add, {"n": 1}))
            assert await connection.fetch(add, {"n": 1}) == [(1 + number,)]

    run(cancel_and_run_again())


@pytest.fixture
def timed_out(connection: Connection, database: psycopg.Connection[Any], run: Run) -> Connection:
    """A connection that has prepared a statement, and whose session timed out unnoticed."""
    run(connection.fetch(statement("SELECT 1")))
    run(connection.execute("SET idle_session_timeout = 500"))
    left = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
    pid = [connection.info.backend_pid]
    eventually(lambda: not database.execute(left, pid).fetchall(), "it timed out")
    return connection


def test_connection_runs_statement_although_its_session_timed_out(
    timed_out: Connection, run: Run
) -> None:
    for _ in range(2):
        assert run(timed_out.fetch(statement("SELECT 1"))) == [(1,)]

    assert timed_out.prepares


def test_connection_begins_transaction_although_its_session_timed_out(
    timed_out: Connection, run: Run
) -> None:
    insert = statement("INSERT INTO users (user_id) VALUES ('u')")

    async def insert_in_transaction() -> int:
        async with timed_out.in_transaction():
            return await timed_out.run(insert)

    assert run(insert_in_transaction()) == 1


def test_connection_that_timed_out_and_cannot_connect_is_lost(
    timed_out: Connection, run: Run, database: psycopg.Connection[Any], postgres: str
) -> None:
    name = database.info.dbname
    with psycopg.connect(postgres, autocommit=True) as administrator:
        administrator.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        run(timed_out.fetch(statement("SELECT 1")))

    assert timed_out.broken


def test_connection_that_is_lost_reports_it(database_url: str, run: Run) -> None:
    async def lose_and_fetch() -> None:
        lost = await Connection.connect(database_url)
        other = await Connection.connect(database_url)
        await other.fetch(
            statement("SELECT pg_terminate_backend(%(pid)s::integer)"),
            {"pid": lost.info.backend_pid},
        )
        await other.close()
        try:
            with pytest.raises(psycopg.OperationalError):
                await lost.fetch(statement("SELECT 1"))
            assert lost.broken
            with pytest.raises(psycopg.OperationalError):
                await lost.fetch(statement("SELECT 1"))
        finally:
            await lost.close()

    run(lose_and_fetch())


JIT = statement("SELECT %(text)s::text, current_setting('jit')", is_prepared=False)
JIT_PREPARED = statement("SELECT %(text)s::text, current_setting('jit')")


def is_in_transaction(connection: Connection) -> bool:
    return connection.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


@pytest.mark.parametrize("statements", [0, 1], ids=["unprepared", "prepared"])
def test_connection_snapshot_begins_with_the_first_statement(
    connection: Connection, run: Run, statements: int
) -> None:
    connection.prepares = bool(statements)
    for _ in range(2):
        connection.begin_snapshot_with_next(["SET LOCAL jit = off"])
        assert not is_in_transaction(connection)

        assert run(connection.fetch(JIT_PREPARED, {"text": "a'b"})) == [("a'b", "off")]

        assert is_in_transaction(connection)
        assert run(connection.fetch(JIT_PREPARED, {"text": "x"})) == [("x", "off")]
        run(connection.rollback())
    assert len(prepared(connection, run)) == statements


def test_connection_snapshot_begins_with_a_transaction_of_psycopg(
    connection: Connection, run: Run
) -> None:
    async def fetch_in_savepoint() -> list[Any]:
        connection.begin_snapshot_with_next(["SET LOCAL jit = off"])
        async with connection.transaction(force_rollback=True):
            pass
        return await connection.fetch(JIT, {"text": "x"})

    assert run(fetch_in_savepoint()) == [("x", "off")]


@pytest.mark.parametrize("failing", ["setup", "first"])
def test_connection_snapshot_that_fails_to_begin_can_be_rolled_back(
    connection: Connection, run: Run, failing: str
) -> None:
    connection.begin_snapshot_with_next(["SET LOCAL jit = 'x'"] if failing == "setup" else [])

    with pytest.raises(
        psycopg.errors.InvalidParameterValue
        if failing == "setup"
        else psycopg.errors.DivisionByZero
    ):
        run(connection.fetch(statement("SELECT 1 / 0", is_prepared=False)))

    run(connection.rollback())
    assert run(connection.fetch(JIT, {"text": "x"})) == [("x", "on")]


def test_connection_snapshot_whose_begin_is_cancelled_can_be_rolled_back(
    connection: Connection, run: Run
) -> None:
    choose = random.Random(7)

    async def cancel() -> None:
        for _ in range(100):
            connection.begin_snapshot_with_next(["SET LOCAL jit = off"])
            beginning = asyncio.create_task(connection.fetch(JIT, {"text": "x"}))
            await asyncio.sleep(choose.random() / 1000)
            beginning.cancel()
            await asyncio.gather(beginning, return_exceptions=True)
            await connection.rollback()
            assert await connection.fetch(JIT, {"text": "x"}) == [("x", "on")]

    run(cancel())
