"""Connections to the database, and how they run statements."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any, Self, TypeAlias

from psycopg import AsyncConnection
from psycopg.adapt import Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.pq.abc import PGresult
from psycopg.types.numeric import Int8BinaryDumper, Int8BinaryLoader, Int8Dumper

from palaver_server.database.statement import Statement

Row: TypeAlias = tuple[Any, ...]

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
    """

    trace: Trace = staticmethod(untraced)

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
        self._statement_names: dict[tuple[Statement, tuple[int, ...]], bytes] = {}
        self._numbers = count()

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
                dumped = self._adapter.dump_sequence(values, statement.formats)
                types, formats = self._adapter.types or (), self._adapter.formats
                if statement.is_prepared:
                    name = self._statement_names.get((statement, types))
                    if name is None:
                        name = await self._prepare(statement, types)
                    self.pgconn.send_query_prepared(name, dumped, formats, Format.BINARY)
                else:
                    self.pgconn.send_query_params(
                        statement.query, dumped, types, formats, Format.BINARY
                    )
                return self._checked(await self.wait(execute(self.pgconn)))

    async def _prepare(self, statement: Statement, types: tuple[int, ...]) -> bytes:
        # Never reuse a name: a cancelled PREPARE may or may not have taken effect.
        name = b"palaver_%d" % next(self._numbers)
        self.pgconn.send_prepare(name, statement.query, types)
        self._checked(await self.wait(execute(self.pgconn)))
        self._statement_names[statement, types] = name
        return name

    def _checked(self, results: list[PGresult]) -> PGresult:
        """Return the last result; raise the error of any that failed."""
        for result in results:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise error_from_result(result, self.info.encoding)
        return results[-1]
