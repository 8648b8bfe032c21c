"""PgBouncer in front of a PostgreSQL server."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver_server.process.service_account import ServiceAccount
from tests.support.processes import scratch_directory
from tests.support.watching import eventually

# Debian installs it in /usr/sbin, which is not on every user's path.
PROGRAM = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin")

_PORT = 6432


class PgBouncer:
    """A running PgBouncer.

    Args:
        directory: Where it listens.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def url_of(self, database_url: str) -> str:
        """Return the URL under which it leads to a database of the server."""
        return make_conninfo(database_url, host=str(self._directory), port=_PORT)


@contextmanager
def running_pgbouncer(postgres: str, **settings: object) -> Iterator[PgBouncer]:
    """Run a PgBouncer in front of a server during the block, with these settings of its own."""
    assert PROGRAM, "pgbouncer is not installed"
    account = ServiceAccount()
    with scratch_directory() as scratch:
        directory = scratch / "pgbouncer"
        directory.mkdir()
        account.own(directory)
        server = conninfo_to_dict(postgres)
        given = {
            "listen_addr": "",
            "unix_socket_dir": directory,
            "listen_port": _PORT,
            "auth_type": "any",
            **settings,
        }
        target = f"host={server['host']} port={server['port']} user={server['user']}"
        lines = ["[databases]", f"* = {target}", "[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in given.items()]
        configuration = directory / "pgbouncer.ini"
        configuration.write_text("\n".join(lines))
        log = directory / "pgbouncer.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PROGRAM, configuration],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **account.popen_arguments,
            )
        pgbouncer = PgBouncer(directory)

        def accepts_connections() -> bool:
            assert process.poll() is None, f"PgBouncer ended:\n{log.read_text()}"
            try:
                psycopg.connect(pgbouncer.url_of(postgres)).close()
            except psycopg.OperationalError:
                return False
            return True

        try:
            eventually(accepts_connections, "PgBouncer accepts connections", within=60)
            yield pgbouncer
        finally:
            process.kill()  # it has nothing to save
            process.wait()
