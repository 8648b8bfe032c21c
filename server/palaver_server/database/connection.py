"""Connections to the database, and how they run statements.

A pooler may run each transaction in another database session. So a connection sets nothing for its
session and locks nothing in it: timeouts are those of a transaction, or come by a cancel request.
Statements are prepared in a session, unless that is turned off.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from itertools import count
from typing import Any, Self, TypeAlias, TypeVar

from psycopg import AsyncConnection, Error, OperationalError, Rollback
from psycopg.abc import Buffer, PQGen, PQGenConn
from psycopg.adapt import Transformer
from psycopg.errors import (
    IdleSessionTimeout,
    InvalidSqlStatementName,
    QueryCanceled,
    error_from_result,
)
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import ExecStatus, Format, PollingStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.types.numeric import Int8BinaryDumper, Int8BinaryLoader, Int8Dumper
from psycopg.waiting import Wait, wait_conn_async

from palaver_server.database.statement import Statement
from palaver_server.durations import milliseconds

_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")

_RECONNECT_SECONDS = 5.0

Row: TypeAlias = tuple[Any, ...]

# A function of libpq that sends a request, and its arguments.
_Request: TypeAlias = tuple[Callable[..., None], tuple[Any, ...]]

# Returns a context manager that wraps a statement while it runs.
Trace: TypeAlias = Callable[[Statement], AbstractContextManager[None]]

_UNTRACED: AbstractContextManager[None] = nullcontext()


def untraced(_statement: Statement) -> AbstractContextManager[None]:
    """Trace nothing."""
    return _UNTRACED


class Connection(AsyncConnection[Row]):
    """A connection in autocommit mode that runs statements with little overhead.

    `fetch`, `fetch_one` and `run` call libpq directly and use psycopg's adapters only for values.
    A cursor costs as much CPU time as the database does for a small read, mostly for features
    that the server's statements do not use.

    Attributes:
        trace: Wraps each statement while it runs.
        statement_timeout: Maximum seconds for a statement, and for a pause in a transaction.
        prepares: Whether it prepares statements, which needs a database session of its own.
    """

    trace: Trace = staticmethod(untraced)
    statement_timeout: float | None = None
    prepares: bool = False

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """Connect as psycopg does, in autocommit mode.

        psycopg prepares nothing by itself: after each rollback it would deallocate all prepared
        statements, also those of `fetch`.
        """
        return await super().connect(*args, **kwargs, autocommit=True, prepare_threshold=None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # One type for all integers: psycopg chooses it by size, and a statement is prepared once
        # for each combination of types.
        for dumper in (Int8Dumper, Int8BinaryDumper):  # text, for arrays, and binary
            self.adapters.register_dumper(int, dumper)
        self.adapters.register_loader("timestamptz", Int8BinaryLoader)  # a PgTimestamp
        self._adapter = Transformer(self)
        timeout = self.statement_timeout
        self._timeout_milliseconds = None if timeout is None else milliseconds(timeout)
        self._timer = None if timeout is None else _StatementTimer(timeout)
        self._begin: Sequence[str] = ()  # statements that begin a transaction with the next one
        self._statement_names: dict[tuple[Statement, tuple[int, ...]], bytes] = {}
        # A pooler may run a statement in a session where others have prepared theirs: a name that
        # is in use there would run the wrong one.
        prefix = secrets.token_hex(6)
        self._new_names = (f"palaver_{prefix}_{number}".encode() for number in count())

    async def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Run a statement, outside of transactions for at most the timeout.

        Raises:
            QueryCanceled: The timeout expired.
        """
        if self._begin:
            begin, self._begin = self._begin, ()
            await self._run(self.pgconn.send_query, "; ".join(begin).encode())
        timer = self._timer
        if timer is None or self.pgconn.transaction_status != TransactionStatus.IDLE:
            return await super().wait(gen, *args, **kwargs)
        timer.start()
        try:
            # Cancelled, it sends a cancel request and waits for the end of the statement.
            return await super().wait(gen, *args, **kwargs)
        except asyncio.CancelledError:
            if not timer.stop():
                raise
            raise QueryCanceled("the statement exceeded its timeout") from None
        finally:
            timer.stop()

    async def cancel_safe(self, **options: Any) -> None:
        """Send a cancel request, to its end even if the caller is cancelled again meanwhile.

        Otherwise a connection would be closed whose statement goes on, and PgBouncer 1.18 would
        crash: it does if the sender of a cancel request leaves before the answer.
        """
        request = asyncio.create_task(super().cancel_safe(**options))
        cancelled: asyncio.CancelledError | None = None
        while not request.done():  # ends at the timeout among the options
            try:
                await asyncio.wait([request])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled:
            raise cancelled
        request.result()

    async def begin(self, *, has_timeout: bool = True) -> None:
        """Begin a transaction, in one round trip.

        Args:
            has_timeout: Whether its statements have the timeout.
        """
        query = "; ".join(self._beginning(has_timeout=has_timeout)).encode()
        async with self.lock:
            try:
                await self._run(self.pgconn.send_query, query)
            except IdleSessionTimeout:
                await self._connect_again()
                await self._run(self.pgconn.send_query, query)

    def begin_snapshot_with_next(self, setup: Sequence[str] = ()) -> None:
        """Begin a read-only transaction with the next statement, in the same round trip.

        All queries of the transaction see one snapshot.

        Args:
            setup: SET LOCAL and LOCK statements to run before the first query, which takes the
                snapshot.
        """
        self._begin = [*self._beginning("ISOLATION LEVEL REPEATABLE READ READ ONLY"), *setup]

    def _beginning(self, modes: str = "", *, has_timeout: bool = True) -> list[str]:
        """Return the statements that begin a transaction, with these modes."""
        timeout = self._timeout_milliseconds
        if timeout is None:
            return [f"BEGIN {modes}"]
        return [
            f"BEGIN {modes}",
            f"SET LOCAL statement_timeout = {timeout if has_timeout else 0}",
            # A server that hangs must not keep its locks.
            f"SET LOCAL idle_in_transaction_session_timeout = {timeout}",
        ]

    @asynccontextmanager
    async def in_transaction(self, *, has_timeout: bool = True) -> AsyncIterator[None]:
        """Run the block in a transaction, and commit it.

        The transaction is rolled back if the block raises. `psycopg.Rollback` ends here.

        Args:
            has_timeout: Whether its statements have the timeout. Without it, only the deadline of
                the call bounds them: for a transaction that writes, whose statements last as long
                as there is much to write or as another transaction holds a lock.
        """
        try:
            await self.begin(has_timeout=has_timeout)
            yield
        except Rollback:
            await self.rollback()
        except BaseException:
            with suppress(Error):  # the connection is lost, and the transaction with it
                await self.rollback()
            raise
        else:
            await self.commit()

    async def fetch(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Run a statement and return its rows, with timestamps as PgTimestamp.

        Raises:
            psycopg.Error: As psycopg's cursors do.
        """
        result = await self._execute(statement, parameters)
        self._adapter.set_pgresult(result)
        return self._adapter.load_rows(0, result.ntuples, tuple)

    async def fetch_one(
        self, statement: Statement, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Run a statement and return its first row, or None if it has none."""
        rows = await self.fetch(statement, parameters)
        return rows[0] if rows else None

    async def run(self, statement: Statement, parameters: Mapping[str, Any] | None = None) -> int:
        """Run a statement and return the number of rows that it changed."""
        result = await self._execute(statement, parameters)
        return result.command_tuples or 0

    async def _execute(
        self, statement: Statement, parameters: Mapping[str, Any] | None
    ) -> PGresult:
        values = [parameters[name] for name in statement.parameters] if parameters else []
        with self.trace(statement):
            async with self.lock:
                try:
                    return await self._attempt(statement, values)
                except IdleSessionTimeout:
                    await self._connect_again()
                    return await self._attempt(statement, values)

    async def _attempt(self, statement: Statement, values: Sequence[Any]) -> PGresult:
        dumped = self._adapter.dump_sequence(values, statement.formats)
        types, formats = self._adapter.types or (), self._adapter.formats
        if self._begin:
            return await self._begin_and_execute(statement, dumped, types, formats)
        if statement.is_prepared and self.prepares:
            name = self._statement_names.get((statement, types))
            if name is None:
                name = await self._prepare(statement, types)
            try:
                return await self._run(
                    self.pgconn.send_query_prepared, name, dumped, formats, Format.BINARY
                )
            except InvalidSqlStatementName:
                self._stop_preparing()
                if self.pgconn.transaction_status != TransactionStatus.IDLE:
                    raise  # the transaction is aborted
        return await self._run(
            self.pgconn.send_query_params, statement.query, dumped, types, formats, Format.BINARY
        )

    async def _connect_again(self) -> None:
        """Replace a database session that timed out while it was idle, so before it ran anything.

        Usually the pool notices and replaces the connection. But the session may end at the very
        moment that a statement is on its way.
        """
        self._statement_names.clear()
        await wait_conn_async(_reset(self.pgconn), timeout=_RECONNECT_SECONDS)

    async def _begin_and_execute(
        self,
        statement: Statement,
        dumped: Sequence[Buffer | None],
        types: tuple[int, ...],
        formats: Sequence[Format] | None,
    ) -> PGresult:
        """Begin the transaction that is to begin with this statement, and run it."""
        begin, self._begin = self._begin, ()
        pgconn = self.pgconn
        requests: list[_Request] = [
            (pgconn.send_query_params, (command.encode(), None)) for command in begin
        ]
        name = None
        if statement.is_prepared and self.prepares:
            name = self._statement_names.get((statement, types))
            if name is None:
                name = next(self._new_names)
                requests.append((pgconn.send_prepare, (name, statement.query, types)))
            requests.append((pgconn.send_query_prepared, (name, dumped, formats, Format.BINARY)))
        else:
            arguments = (statement.query, dumped, types, formats, Format.BINARY)
            requests.append((pgconn.send_query_params, arguments))
        with self._pipeline_mode():
            try:
                result = await self.wait(_pipelined(pgconn, requests))
            except InvalidSqlStatementName:
                self._stop_preparing()
                raise
        if name is not None:
            self._statement_names[statement, types] = name
        return result

    @contextmanager
    def _pipeline_mode(self) -> Iterator[None]:
        self.pgconn.enter_pipeline_mode()
        try:
            yield
        finally:
            # It fails if the connection was lost, or given up without all results: it is in no
            # transaction then that could be rolled back, and the pool closes it.
            with suppress(OperationalError):
                self.pgconn.exit_pipeline_mode()

    async def _prepare(self, statement: Statement, types: tuple[int, ...]) -> bytes:
        # Never reuse a name: a cancelled PREPARE may or may not have taken effect.
        name = next(self._new_names)
        await self._run(self.pgconn.send_prepare, name, statement.query, types)
        self._statement_names[statement, types] = name
        return name

    def _stop_preparing(self) -> None:
        self.prepares = False
        _LOGGER.warning(
            "the database session has lost a prepared statement, as it does behind a connection"
            " pooler in transaction mode; this connection prepares none any more: set"
            " PALAVER_PREPARED_STATEMENTS=off"
        )

    async def _run(self, send_request: Callable[..., None], *arguments: Any) -> PGresult:
        """Send a request and return its last result; raise the error of any that failed."""
        return await self.wait(_sent(self.pgconn, send_request, arguments))


class _StatementTimer:
    """Cancels the task whose statement exceeds the timeout, one statement after the other.

    The timer is set again only when it fires: a timer for each statement, as `asyncio.timeout`
    has, would cost a small read a twentieth of its processor time.

    Args:
        seconds: The timeout.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._task: asyncio.Task[Any] | None = None
        self._end = 0.0
        self._earlier_cancels = 0
        self._has_expired = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start the timeout of a statement that the current task runs."""
        loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._earlier_cancels = task.cancelling() if task else 0
        self._end = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(self._end, self._check, loop)

    def stop(self) -> bool:
        """End the timeout; return whether it alone has cancelled the task."""
        task, self._task = self._task, None
        has_expired, self._has_expired = self._has_expired, False
        return has_expired and task is not None and task.uncancel() <= self._earlier_cancels

    def _check(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._task is None:
            return
        if loop.time() < self._end:  # the timer was an earlier statement's
            self._timer = loop.call_at(self._end, self._check, loop)
            return
        self._has_expired = True
        self._task.cancel()


def _reset(pgconn: PGconn) -> PQGenConn[None]:
    """Let libpq connect again, with the same parameters."""
    pgconn.reset_start()
    while (status := pgconn.reset_poll()) != PollingStatus.OK:
        if status == PollingStatus.FAILED:
            raise OperationalError(f"connection failed: {pgconn.get_error_message()}")
        yield pgconn.socket, Wait.R if status == PollingStatus.READING else Wait.W
    pgconn.nonblocking = 1


def _sent(
    pgconn: PGconn, send_request: Callable[..., None], arguments: Sequence[Any]
) -> PQGen[PGresult]:
    """Send a request, and return its last result."""
    send_request(*arguments)
    return _last((yield from execute(pgconn)))


def _pipelined(pgconn: PGconn, requests: Sequence[_Request]) -> PQGen[PGresult]:
    """Send requests in pipeline mode, without waiting in between; return the last result."""
    for send_request, arguments in requests:
        send_request(*arguments)
    pgconn.pipeline_sync()
    yield from send(pgconn)
    results: list[PGresult] = []
    for _ in requests:
        results += yield from fetch_many(pgconn)
    yield from fetch_many(pgconn)  # the end of the pipeline
    return _last(results)


def _last(results: list[PGresult]) -> PGresult:
    """Return the last result; raise the error of the first that failed."""
    for result in results:
        if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
            raise error_from_result(result)
    return results[-1]
