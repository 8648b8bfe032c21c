"""Connections to the database, and how statements are run over them."""

import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple, Self, TypeAlias

from psycopg import AsyncConnection, AsyncCursor
from psycopg.adapt import PyFormat, Transformer
from psycopg.errors import error_from_result
from psycopg.generators import execute
from psycopg.pq import ExecStatus, Format
from psycopg.types.numeric import Int8BinaryDumper, Int8BinaryLoader, Int8Dumper

Row: TypeAlias = tuple[Any, ...]

# What is told of a statement while it runs.
Trace: TypeAlias = Callable[[str], AbstractContextManager[None]]

_UNTRACED: AbstractContextManager[None] = nullcontext()


def untraced(_statement: str) -> AbstractContextManager[None]:
    """Tells nobody of a statement."""
    return _UNTRACED


class Connection(AsyncConnection[Row]):
    """A connection that runs statements with little work around each.

    `fetch` runs them by libpq itself, prepared at their first run, with psycopg's types. A
    cursor would take the caller as long as the database does; what it can do beyond that,
    statements of a service do not need. `execute` prepares nothing: psycopg would have the
    server forget all that is prepared, at each rollback.

    Attributes:
        trace: Is told of each statement.
    """

    trace: Trace = staticmethod(untraced)

    @classmethod
    async def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """Connects, as psycopg does, in autocommit mode."""
        return await super().connect(*args, **kwargs, autocommit=True, prepare_threshold=None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of one type, whatever its size: a statement would be prepared for each.
        for dumper in (Int8Dumper, Int8BinaryDumper):  # text, for arrays, and binary
            self.adapters.register_dumper(int, dumper)
        self.adapters.register_loader("timestamptz", Int8BinaryLoader)  # a PgTimestamp
        self._adapter = Transformer(self)
        self._names: dict[tuple[str, tuple[int, ...]], bytes] = {}
        self._numbers = count()

    async def fetch(
        self, statement: str, parameters: Mapping[str, Any] | None = None, *, prepare: bool = True
    ) -> list[Row]:
        """Runs a statement, and gives its rows, their times as Moments.

        Args:
            statement: SQL, with parameters as `%(name)s`.
            parameters: Their values.
            prepare: Whether it is prepared, and its plan kept: to be declined where what
                the statement says depends on what a caller asks for.

        Raises:
            Error: As psycopg does.
        """
        query = _query(statement)
        values = [parameters[name] for name in query.names] if parameters else []
        with self.trace(statement):
            async with self.lock:
                dumped = self._adapter.dump_sequence(values, query.formats)
                types, formats = self._adapter.types or (), self._adapter.formats
                if prepare:
                    name = self._names.get((statement, types))
                    if name is None:
                        name = await self._prepare(statement, query, types)
                    self.pgconn.send_query_prepared(name, dumped, formats, Format.BINARY)
                else:
                    self.pgconn.send_query_params(query.text, dumped, types, formats, Format.BINARY)
                return await self._rows()

    async def fetch_one(
        self, statement: str, parameters: Mapping[str, Any] | None = None
    ) -> Row | None:
        """Runs a statement, and gives its first row; None if it has none."""
        rows = await self.fetch(statement, parameters)
        return rows[0] if rows else None

    async def execute(self, query: Any, *args: Any, **kwargs: Any) -> AsyncCursor[Row]:
        """Runs a statement for the number of rows that it changes, or one that is run seldom."""
        with self.trace(str(query)):
            return await super().execute(query, *args, **kwargs)

    async def _prepare(self, statement: str, query: "_Query", types: tuple[int, ...]) -> bytes:
        # Never the same again: whether one was prepared that was cancelled amid it is not known.
        name = b"palaver_%d" % next(self._numbers)
        self.pgconn.send_prepare(name, query.text, types)
        await self._rows()
        self._names[statement, types] = name
        return name

    async def _rows(self) -> list[Row]:
        results = await self.wait(execute(self.pgconn))
        for result in results:
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise error_from_result(result, self.info.encoding)
        self._adapter.set_pgresult(results[-1])
        return self._adapter.load_rows(0, results[-1].ntuples, tuple)


class _Query(NamedTuple):
    """A statement as PostgreSQL reads it, and what its parameters are."""

    text: bytes
    names: list[str]
    formats: list[PyFormat]


_PARAMETER = re.compile(r"%(?:%|\((\w+)\)([sbt]))")


@lru_cache(1024)
def _query(statement: str) -> _Query:
    formats: dict[str, PyFormat] = {}

    def numbered(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        formats.setdefault(match[1], PyFormat(match[2]))
        return f"${1 + list(formats).index(match[1])}"

    text = _PARAMETER.sub(numbered, statement).encode()
    return _Query(text, list(formats), list(formats.values()))
