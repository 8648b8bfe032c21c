"""The URL of the database: what it says to the driver, and what of it may be shown."""

from psycopg.conninfo import conninfo_to_dict, make_conninfo

# A network may lose packets without a word. How long libpq then waits for a connection,
# for its first sign of life when it is idle, and for what was sent to be acknowledged.
_PATIENCE = {
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


def with_patience(database_url: str) -> str:
    """Bounds how long a silent network is waited for, where the URL does not say."""
    return make_conninfo("", **{**_PATIENCE, **conninfo_to_dict(database_url)})


def without_password(database_url: str) -> str:
    """Gives the database's address for logs: as a conninfo string, without the password."""
    parameters = conninfo_to_dict(database_url)
    parameters.pop("password", None)
    parameters.pop("sslpassword", None)
    return make_conninfo("", **parameters)
