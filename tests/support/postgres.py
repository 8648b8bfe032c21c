"""PostgreSQL servers of any version and locale, on directories that end with their block."""

import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from palaver_server.process.postgres_program import PostgresProgram, installed_program
from palaver_server.process.service_account import ServiceAccount
from palaver_server.process.watchdog import Watchdog
from tests.support.processes import scratch_directory
from tests.support.watching import eventually

# Without fsync: tests crash processes, not machines, and the kernel keeps what was written.
FAST = {"fsync": "off", "synchronous_commit": "off", "max_connections": "200"}

EMBEDDED = installed_program()

# As Debian's package `postgresql-15` installs it.
DEBIAN = PostgresProgram(Path("/usr/lib/postgresql/15"), "15")


@contextmanager
def running_postgres(
    program: PostgresProgram, *initdb_flags: str, settings: Mapping[str, str] = FAST
) -> Iterator[str]:
    """Run a server on a new cluster during the block; yield its superuser's URL."""
    account = ServiceAccount()
    with scratch_directory() as directory:
        bin_dir = program.reachable(account, directory).bin_dir
        cluster = directory / "cluster"
        cluster.mkdir(mode=0o700)
        account.own(cluster)
        subprocess.run(
            [
                bin_dir / "initdb", f"--pgdata={cluster}", "--username=palaver", "--auth=trust",
                "--encoding=UTF8", "--no-sync", "--no-instructions", *initdb_flags,
            ],
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
            **account.popen_arguments,
        )  # fmt: skip
        with running_cluster(bin_dir, cluster, settings) as url:
            yield url


@contextmanager
def running_cluster(bin_dir: Path, cluster: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """Run a server on an existing cluster during the block; yield its superuser's URL."""
    account = ServiceAccount()
    places = {"listen_addresses": "", "port": "5432", "unix_socket_directories": str(cluster)}
    flags = [f"-c{name}={value}" for name, value in {**places, **settings}.items()]
    url = make_conninfo(host=str(cluster), port=5432, user="palaver", dbname="postgres")
    watchdog = Watchdog(account.popen_arguments)
    log = cluster.parent / f"{cluster.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [bin_dir / "postgres", "-D", cluster, *flags],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **account.popen_arguments,
        )
    try:
        watchdog.guard(process.pid, "QUIT")

        def accepts_connections() -> bool:
            assert process.poll() is None, f"PostgreSQL ended:\n{log.read_text()}"
            try:
                psycopg.connect(url).close()
            except psycopg.OperationalError:
                return False
            return True

        eventually(accepts_connections, "PostgreSQL accepts connections", within=60)
        yield url
    finally:
        process.send_signal(signal.SIGINT)  # the fast shutdown: open transactions are rolled back
        process.wait()
        watchdog.close()
