"""The database URL: connection parameters, and a form that is safe to log."""

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# A network may drop packets silently. These bound how long libpq waits for a connection to be
# made, for an idle peer to answer a keepalive probe, and for sent data to be acknowledged.
_TIMEOUTS = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def with_timeouts(database_url: str) -> str:
    """Add connect, keepalive and TCP timeouts to a URL; those that it sets already stay.

    The client encoding is set too: a service file, a role or PGCLIENTENCODING may name another one,
    in which the database would read UTF-8 as something else.
    """
    given = conninfo_to_dict(database_url)
    return make_conninfo("", **{**_TIMEOUTS, **given, "client_encoding": "UTF8"})


_PASSWORDS = ("password", "sslpassword")


def has_password(database_url: str) -> bool:
    """Return whether a URL holds a password; False if it is malformed."""
    try:
        return not conninfo_to_dict(database_url).keys().isdisjoint(_PASSWORDS)
    except ProgrammingError:
        return False


def without_password(database_url: str) -> str:
    """Return the URL as a conninfo string without passwords, for logs."""
    parameters = conninfo_to_dict(database_url)
    shown = {name: value for name, value in parameters.items() if name not in _PASSWORDS}
    return make_conninfo("", **shown)
