"""SQL/JSON paths in filters by metadata: the only part of a filter that is an expression."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement
from palaver_server.errors import FieldViolation, InvalidRequest

_FIELD = "filter.metadata"

_PATH_ERRORS = (psycopg.DataError, psycopg.ProgrammingError, psycopg.NotSupportedError)

# Applies the path to an empty object: some errors occur only when a path is applied, and the filter
# may have no row to apply it to.
_CHECK_PATH = Statement(
    "metadata_path.check",
    """
    SELECT %(metadata)s::jsonpath::text, '{}'::jsonb @@ %(metadata)s::jsonpath
""",
)

# PostgreSQL compiles the regular expressions of a path when it parses it, which may take minutes.
_SET_TIMEOUT = Statement(
    "metadata_path.set_timeout", "SELECT set_config('statement_timeout', '2s', true)"
)

# Replaces PostgreSQL's message for a bound caller. That message is about the first row that fails,
# which depends on the plan, and the plan depends on all users' rows.
_FAILS = "fails on some metadata, as a conversion of a time between time zones does"


@asynccontextmanager
async def checked_path(
    connection: Connection, path: str | None, access: Access
) -> AsyncIterator[None]:
    """Check a path, if there is one, before the block that filters by it.

    Args:
        connection: A connection, in a transaction or not.
        path: The path; None: there is nothing to check.
        access: The caller's access scope.

    Raises:
        InvalidRequest: It is not a valid path, or it failed on a row in the block.
        QueryCanceled: Parsing it took too long.
    """
    if path is None:
        yield
        return
    try:
        # Rolled back: the timeout does not apply to the block.
        async with connection.transaction(force_rollback=True):
            await connection.fetch(_SET_TIMEOUT)
            tried = await connection.fetch_one(_CHECK_PATH, {"metadata": path})
            _refuse_variables(*(tried or ()))
    except _PATH_ERRORS as error:
        raise _refusal(_reason(error)) from error
    try:
        yield
    except _PATH_ERRORS as error:
        raise _refusal(_reason(error) if access.user_id is None else _FAILS) from error


def _reason(error: psycopg.Error) -> str:
    return (error.diag.message_primary or "is not a SQL/JSON path")[:200]


def _refusal(reason: str) -> InvalidRequest:
    return InvalidRequest(FieldViolation(_FIELD, reason))


def _refuse_variables(path: str, _: bool | None) -> None:  # noqa: FBT001 - the columns of _CHECK_PATH
    """Refuse a path with variables: they have no values, and only some rows would show it.

    PostgreSQL prints a path with all names and strings in double quotes.
    """
    if '$""' in re.sub(r'"(?:[^"\\]|\\.)*"', '""', path):
        raise _refusal("must have no variables: there are no values for them")
