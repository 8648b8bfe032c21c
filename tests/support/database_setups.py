"""Set-ups of the database under which tests run; PALAVER_TEST_DATABASE names some of them.

A set-up is a PostgreSQL server of some version and locale. Tests connect to it as its superuser,
and Palaver as the set-up says.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver_server.process.postgres_program import PostgresProgram
from tests.support.grants import SCHEMA, documented_grants
from tests.support.pgbouncer import running_pgbouncer
from tests.support.postgres import DEBIAN, EMBEDDED, running_postgres
from tests.support.processes import scratch_directory
from tests.support.standby import replicated


def _direct(url: str) -> Mapping[str, Any]:
    return {"database_url": url}


def _leave(url: str) -> None:
    """Change nothing."""


@dataclass(frozen=True)
class DatabaseSetup:
    """A running database server.

    Attributes:
        url: The URL of its superuser.
        settings_for: Returns the settings with which Palaver uses a database, given the
            superuser's URL of that.
        prepare: Prepares an empty database for migrations, given the superuser's URL of it.
    """

    url: str
    settings_for: Callable[[str], Mapping[str, Any]] = _direct
    prepare: Callable[[str], None] = _leave

    def migration_url(self, url: str) -> str:
        """Return the URL for migrations, a direct one, given the superuser's URL of a database."""
        return str(self.settings_for(url).get("migration_database_url", url))


RunningSetup = AbstractContextManager[DatabaseSetup]


def _cluster(program: PostgresProgram, *locale: str) -> Callable[[], RunningSetup]:
    """Return a set-up of PostgreSQL alone, with these flags of `initdb`."""

    @contextmanager
    def running() -> Iterator[DatabaseSetup]:
        with running_postgres(program, *locale) as url:
            yield DatabaseSetup(url)

    return running


# Like the cluster that `palaver serve` creates.
_embedded = _cluster(
    EMBEDDED, "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"
)


def _pooled(pool_mode: str, **settings: Any) -> Callable[[], RunningSetup]:
    """Return a set-up in which Palaver connects through PgBouncer, also to migrate."""

    @contextmanager
    def running() -> Iterator[DatabaseSetup]:
        with (
            _embedded() as setup,
            # In session mode, each connection of the servers needs one to PostgreSQL.
            running_pgbouncer(setup.url, pool_mode=pool_mode, default_pool_size=100) as pgbouncer,
        ):
            yield DatabaseSetup(
                setup.url, lambda url: {"database_url": pgbouncer.url_of(url), **settings}
            )

    return running


@contextmanager
def _standby() -> Iterator[DatabaseSetup]:
    """Run a server with a hot standby, from which Palaver reads where that is fresh enough."""
    with scratch_directory() as directory, replicated(directory) as pair:

        def settings_for(url: str) -> Mapping[str, Any]:
            name = conninfo_to_dict(url)["dbname"]
            return {
                "database_url": url,
                "read_database_url": make_conninfo(pair.standby, dbname=name),
            }

        yield DatabaseSetup(pair.primary, settings_for)


@contextmanager
def _minimal_grants() -> Iterator[DatabaseSetup]:
    """Run a server on which one user migrates and another serves, with the documented rights."""
    owner, server = "migrating", "serving"

    def prepare(url: str) -> None:
        name = str(conninfo_to_dict(url)["dbname"])
        with psycopg.connect(url, autocommit=True) as connection:
            for statement in documented_grants(database=name, owner=owner, server=server):
                connection.execute(statement.encode())

    def settings_for(url: str) -> Mapping[str, Any]:
        urls = {"database_url": server, "migration_database_url": owner}
        return {setting: make_conninfo(url, user=user) for setting, user in urls.items()}

    with _embedded() as setup:
        with psycopg.connect(setup.url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {owner} LOGIN; CREATE ROLE {server} LOGIN".encode())
            # Tests read and write the tables as the superuser.
            connection.execute(f"ALTER ROLE CURRENT_USER SET search_path = {SCHEMA}".encode())
        yield DatabaseSetup(setup.url, settings_for, prepare)


@contextmanager
def _default() -> Iterator[DatabaseSetup]:
    """Yield the server that PALAVER_TEST_DATABASE_URL names, or the embedded one."""
    url = os.environ.get("PALAVER_TEST_DATABASE_URL")
    if url:
        yield DatabaseSetup(url)
        return
    with _embedded() as setup:
        yield setup


# For tests that hold up a read by a lock: a standby does not know a lock before it is committed.
READ_FROM_PRIMARY: Mapping[str, Any] = {"read_database_url": None}

DEFAULT_SETUP = "embedded"

# The embedded PostgreSQL is built without ICU, and Debian's 15 has no builtin provider.
SETUPS: Mapping[str, Callable[[], RunningSetup]] = {
    DEFAULT_SETUP: _default,
    "debian": _cluster(DEBIAN, "--locale=en_US.UTF-8"),
    "embedded-c": _cluster(EMBEDDED, "--locale=C"),
    "embedded-english": _cluster(EMBEDDED, "--locale=en_US.UTF-8"),
    "embedded-turkish": _cluster(EMBEDDED, "--locale=tr_TR.UTF-8"),
    "debian-c": _cluster(DEBIAN, "--locale=C"),
    "debian-c-utf8": _cluster(DEBIAN, "--locale=C.UTF-8"),
    "debian-turkish": _cluster(DEBIAN, "--locale=tr_TR.UTF-8"),
    "debian-icu-english": _cluster(
        DEBIAN, "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"
    ),
    "debian-icu-turkish": _cluster(
        DEBIAN, "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=tr-TR"
    ),
    "pgbouncer-session": _pooled("session", prepared_statements="on"),
    "pgbouncer-transaction": _pooled("transaction"),
    "minimal-grants": _minimal_grants,
    "standby": _standby,
}

SKIPPED_WITHOUT_VECTORS = "Debian's PostgreSQL comes without pgvector"


def setup_of(item: pytest.Item) -> str:
    """Return the name of the set-up on which a test runs."""
    call = getattr(item, "callspec", None)
    return str(call.params.get("database_setup", DEFAULT_SETUP)) if call else DEFAULT_SETUP


def has_vectors(name: str) -> bool:
    """Return whether the server of a set-up has pgvector."""
    return not name.startswith("debian")
