"""Translates the errors of the database driver into those of the domain."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as sqlstate

from palaver_server.errors import DatabaseUnavailable, DeadlineExceeded

# The database is there but cannot take the work now; the statement had no effect.
# Everything else that is no lost connection is a bug, and stays what it is.
_REFUSED_FOR_NOW = (
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
)


def is_unavailable(error: psycopg.Error) -> bool:
    """Tells whether the error says that the database is away, or cannot take work for now."""
    if isinstance(error, _REFUSED_FOR_NOW):
        return True
    # A lost connection has no SQLSTATE, or one of class 08, "connection exception"; and
    # no class of its own, where libpq makes up a result of a server that is gone.
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError
    return error.sqlstate.startswith("08")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raises a driver error of the block as the domain error that it stands for.

    Raises:
        DatabaseUnavailable: The database is away, or cannot take work for now.
        DeadlineExceeded: A statement took longer than it may.
    """
    try:
        yield
    except sqlstate.QueryCanceled as error:
        raise DeadlineExceeded from error
    except psycopg.Error as error:
        if is_unavailable(error):
            raise DatabaseUnavailable from error
        raise
