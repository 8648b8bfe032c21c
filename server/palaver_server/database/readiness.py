"""Waiting, at the start of a server, for a database that is away."""

import asyncio
import logging
import re

from psycopg import AsyncConnection, OperationalError

from palaver_server.errors import DatabaseUnusable

_LOGGER = logging.getLogger(__name__)

_INTERVAL_SECONDS = 1.0

# Refusals that no waiting changes. They are told apart by their text, as psycopg gives errors of
# connecting no SQLSTATE. A message in another language is waited for, and reported at the end.
_PERMANENT = re.compile(
    r"authentication failed|no password supplied|does not exist|is not permitted to log in"
    r"|no pg_hba\.conf entry|permission denied for database|definition of service"
    r"|unsupported startup parameter|server does not support SSL|certificate verify failed"
    r"|root certificate file"
)


async def wait_for_database(database_url: str, *, seconds: float) -> None:
    """Wait until the database accepts a connection; log every second why it does not.

    Raises:
        DatabaseUnusable: It refused this user for good, accepted no connection in time, or has
            an encoding other than UTF-8.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            connection = await AsyncConnection.connect(database_url)
        except OperationalError as error:
            reason = str(error)
            left = deadline - loop.time()
            if left <= 0 or _PERMANENT.search(reason):
                raise DatabaseUnusable(f"cannot use the database: {reason}") from error
            _LOGGER.warning(
                "the database accepts no connection (%s); trying for another %.0f s",
                " ".join(reason.split()),
                left,
            )
            await asyncio.sleep(min(_INTERVAL_SECONDS, left))
        else:
            encoding = connection.info.parameter_status("server_encoding")
            database = connection.info.dbname
            await connection.close()
            _check_encoding(encoding, database)
            return


def _check_encoding(encoding: str | None, database: str) -> None:
    # Others cannot store all of Unicode, and SQL_ASCII does not even check what it stores.
    if encoding != "UTF8":
        raise DatabaseUnusable(
            f"the encoding of database {database} is {encoding}, but Palaver needs UTF8: create"
            " one with CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and move the data"
            " there with pg_dump"
        )
