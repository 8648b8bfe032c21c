"""The database of a command: a configured one, or the embedded PostgreSQL."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from palaver_server.config import DatabaseSettings
from palaver_server.database.url import without_password

_LOGGER = logging.getLogger(__name__)


@contextmanager
def open_database(settings: DatabaseSettings) -> Iterator[str]:
    """Yield the URL of the configured database, or run the embedded one and yield its URL."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        _LOGGER.info("database: %s", without_password(url))
        yield url
        return
    # Imported here: commands on a configured database start faster without them, and their
    # libraries are an extra.
    from palaver_server.process.postgres_program import installed_program  # noqa: PLC0415

    installed_program()
    from palaver_server.process.embedded_postgres import EmbeddedPostgres  # noqa: PLC0415
    from palaver_server.process.service_account import default_data_dir  # noqa: PLC0415

    data_dir = settings.data_dir
    if "data_dir" not in settings.model_fields_set:
        data_dir = default_data_dir(data_dir)
    _LOGGER.info("database: embedded PostgreSQL, data in %s", data_dir.absolute())
    # SystemExit unwinds the block, which stops PostgreSQL. The service's event loop installs its
    # own handler once it runs.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with EmbeddedPostgres(data_dir) as postgres:
            yield postgres.url_without_logged_errors
    finally:
        signal.signal(signal.SIGTERM, before)
