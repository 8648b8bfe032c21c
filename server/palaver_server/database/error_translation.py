"""Translate the database driver's errors into those of the domain."""

import re

import psycopg
from psycopg import errors as sqlstate

from palaver_server.errors import (
    DatabaseUnavailable,
    DatabaseUnusable,
    DeadlineExceeded,
    PalaverError,
)

# The server is running but cannot execute the statement now; the statement had no effect.
# Any other error that is not a lost connection is a bug, and is not translated.
_TEMPORARY = (
    sqlstate.AdminShutdown,
    sqlstate.CrashShutdown,
    sqlstate.CannotConnectNow,
    sqlstate.IdleSessionTimeout,
    sqlstate.IdleInTransactionSessionTimeout,
    sqlstate.TooManyConnections,
    sqlstate.ReadOnlySqlTransaction,
    sqlstate.DiskFull,
    sqlstate.OutOfMemory,
    sqlstate.LockNotAvailable,
    sqlstate.DeadlockDetected,
    sqlstate.SerializationFailure,
    sqlstate.InvalidSqlStatementName,  # prepared in another session, behind a pooler
    # Revoked: the health check names the right, and notices its return. A table is not found
    # without a right on its schema.
    sqlstate.InsufficientPrivilege,
    sqlstate.UndefinedTable,
)

# Their messages name roles, tables, columns and functions only.
_LOGGABLE = (
    sqlstate.InsufficientPrivilege,
    sqlstate.UndefinedTable,
    sqlstate.UndefinedColumn,
    sqlstate.UndefinedObject,
    sqlstate.UndefinedFunction,
)


def is_unavailable(error: psycopg.Error) -> bool:
    """Return whether the error means that the database is unreachable or temporarily refuses."""
    if isinstance(error, _TEMPORARY):
        return True
    # A lost connection has no SQLSTATE, or one of class 08, "connection exception". Where libpq
    # makes up the result of a server that is gone, the error has no class of its own.
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
    return error.sqlstate.startswith("08")


def domain_error(error: psycopg.Error) -> PalaverError | None:
    """Return the domain error that a driver's error stands for; None if it is a bug."""
    if isinstance(error, sqlstate.QueryCanceled):
        return DeadlineExceeded()
    return DatabaseUnavailable() if is_unavailable(error) else None


_DENIED = re.compile(r"permission denied for (schema|table|relation|sequence) (\w+)")


def start_failure(error: psycopg.Error, user: str) -> DatabaseUnusable:
    """Return the error that ends a start or a migration, with the GRANT that a user lacks."""
    reason = error.diag.message_primary or str(error)
    advice = ""
    if isinstance(error, sqlstate.InsufficientPrivilege):
        advice = "; run palaver migrate as the schema's owner"
        if denied := _DENIED.match(reason):
            kind, name = denied.groups()
            grant = (
                f"USAGE, CREATE ON SCHEMA {name}"
                if kind == "schema"
                else f"SELECT, INSERT, UPDATE, DELETE ON {name}"
            )
            advice += f", or GRANT {grant} TO {user}"
    return DatabaseUnusable(f"cannot use the database: {reason}{advice}")


def loggable_reason(error: BaseException) -> str:
    """Return what a log line may say about an error.

    PostgreSQL's messages may quote contents and metadata, so of most errors it is the class and
    the SQLSTATE.
    """
    cause = error.__cause__
    if isinstance(error, DatabaseUnavailable) and isinstance(cause, _LOGGABLE):
        error = cause
    if isinstance(error, PalaverError):
        return str(error)
    if isinstance(error, _LOGGABLE) and error.diag.message_primary:
        return error.diag.message_primary
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return f"{type(error).__name__}, SQLSTATE {error.sqlstate}"
    return type(error).__name__
