"""Palaver and PostgreSQL as processes, all of which end with their test."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path

import psutil
from psycopg.conninfo import make_conninfo

from tests.support.watching import eventually

ROOT = Path(__file__).parents[2]

# How long a test waits for a process at most, on a busy machine.
_SECONDS_TO_END = 60


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """Yield a directory; remove it after the block, and end every process in it."""
    directory = Path(tempfile.mkdtemp(prefix="palaver-test-", dir=_place()))
    directory.chmod(0o711)  # root's PostgreSQL runs as another user, which has to pass through
    try:
        yield directory
    finally:
        end_processes_in(directory)
        shutil.rmtree(directory)


def _place() -> Path | None:
    """In memory where possible: databases are created several times faster than on a disk."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 1024**3
    return memory if has_room else None


def end_processes_in(directory: Path) -> None:
    """End all processes that work in a directory."""
    # PostgreSQL removes its shared memory if it can shut down.
    ways = chain([signal.SIGQUIT], repeat(None, 50), repeat(signal.SIGKILL))

    def none_is_left() -> bool:
        processes, way = processes_in(directory), next(ways)
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                if process.name() != "postgres":
                    process.kill()
                elif way:
                    process.send_signal(way)
        return not processes

    eventually(none_is_left, "all processes are ended")


def processes_in(directory: Path) -> list[psutil.Process]:
    """Return the processes that work in a directory, or were started with its path."""
    return [process for process in psutil.process_iter() if _belongs_to(process, directory)]


def _belongs_to(process: psutil.Process, directory: Path) -> bool:
    try:
        if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
            return False
        where = [process.cwd(), *process.cmdline()]
    except psutil.Error:  # it has ended, or belongs to another user
        return False
    return any(str(directory) in part for part in where)


def embedded_url(data_dir: Path) -> str:
    """Return the URL of the embedded PostgreSQL that a server runs on this data directory."""
    return make_conninfo(host=str(data_dir / "postgres"), user="palaver", dbname="postgres")


def postmaster_pid(data_dir: Path) -> int:
    """Return the process id of the embedded PostgreSQL from its lock file."""
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def _environment(data_home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without outside settings and the user's data directory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PALAVER_")}
    stubs = str(ROOT / "clients" / "python")
    defaults = {"PALAVER_LOG_FORMAT": "text", "PALAVER_EMBEDDER": "none"}
    own = {"PYTHONPATH": stubs, "XDG_DATA_HOME": str(data_home), **defaults}
    return {**kept, **own, **variables}


class PalaverProcess:
    """`palaver` with these arguments; its output goes to a file in `directory`."""

    def __init__(
        self, arguments: Sequence[str], directory: Path, variables: Mapping[str, str]
    ) -> None:
        number = len(list(directory.glob("palaver-*.log")))
        self._log = directory / f"palaver-{number}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "palaver_server", *arguments],
                cwd=ROOT,
                env=_environment(directory, variables),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """The output so far."""
        return self._log.read_text()

    def prints(self, pattern: str) -> re.Match[str]:
        """Wait until it has printed this, and return the match."""

        def printed() -> re.Match[str] | None:
            ended = self.process.poll() is not None
            match = re.search(pattern, self.output)
            assert match or not ended, f"it ended without printing {pattern!r}:\n{self.output}"
            return match

        return eventually(printed, f"it prints {pattern!r}", within=_SECONDS_TO_END)

    def wait(self, *, within: float = _SECONDS_TO_END) -> int:
        """Wait until it ends, and return the exit status."""
        return self.process.wait(within)

    @property
    def workers(self) -> list[psutil.Process]:
        """The processes that serve, which are forks of the process that was started."""
        started = psutil.Process(self.process.pid)
        command = started.cmdline()
        workers = []
        for child in started.children():
            with suppress(psutil.NoSuchProcess):  # also if it has ended and is not yet collected
                if child.cmdline() == command:
                    workers.append(child)
        return workers

    def stop(self, way: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, wait until it ends, and return the exit status."""
        self.process.send_signal(way)
        return self.wait()

    def kill(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
