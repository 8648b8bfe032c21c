"""SQL/JSON paths that callers give to filter by metadata: the only free-form part of a filter."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from server.errors import FieldViolation, InvalidRequest
from server.principal import bound_user
from server.store.connection import Connection

_FIELD = "filter.metadata"

_PATH_ERRORS = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)

# Many a bad path shows only when it is applied, and there may be no row for it.
_TRY_PATH = """
    SELECT %(metadata)s::jsonpath::text, '{}'::jsonb @@ %(metadata)s::jsonpath
"""

# The database compiles the regular expressions of a path as it reads it, which may take
# minutes, whatever the path is to be applied to.
_BOUND = "SELECT set_config('statement_timeout', '2s', true)"

# In place of PostgreSQL's reason, which is that of the row that it comes by first, and depends
# on the plan. A bound caller's answers must not: the plan depends on everybody's rows.
_FAILS = "fails on some metadata, as a conversion of a time between time zones does"


@asynccontextmanager
async def checked_path(connection: Connection, path: str | None) -> AsyncIterator[None]:
    """Tries a path, if one is given, before the block that filters by it.

    Raises:
        InvalidRequest: It is no path, or the block shows that it cannot be applied.
        QueryCanceled: It takes too long to read.
    """
    if path is None:
        yield
        return
    try:
        # Rolled back, since the bound is not for the block.
        async with connection.transaction(force_rollback=True):
            await connection.fetch(_BOUND)
            tried = await connection.fetch_one(_TRY_PATH, {"metadata": path})
            _refuse_variables(*(tried or ()))
    except _PATH_ERRORS as error:
        raise _refusal(_reason(error)) from error
    try:
        yield
    except _PATH_ERRORS as error:
        raise _refusal(_reason(error) if bound_user() is None else _FAILS) from error


def _reason(error: psycopg.Error) -> str:
    return (error.diag.message_primary or "is not a SQL/JSON path")[:200]


def _refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(_FIELD, reason))


def _refuse_variables(path: str, _: bool | None) -> None:  # noqa: FBT001 - the columns of _TRY_PATH
    """Refuses a path with variables, which only some rows would show to have no values.

    PostgreSQL writes a path with each name and string in double quotes.
    """
    if '$""' in re.sub(r'"(?:[^"\\]|\\.)*"', '""', path):
        raise _refusal("has a variable, without a value")
