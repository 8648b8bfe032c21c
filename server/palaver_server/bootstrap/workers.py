"""The processes that serve: one or several on one port, because Python uses one core per process.

The process that was started supervises them: a worker that a signal killed, such as that of the
kernel's OOM killer, is replaced. SO_REUSEPORT has the kernel assign each connection to one of the
workers. They share only the database, like servers on several machines.

Workers are forked, which costs little memory and time: they share what was imported. This process
starts neither gRPC nor an event loop, whose threads and locks a fork would not survive, and the
threads of the embedded PostgreSQL hold no lock that a worker needs.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, TypeAlias

import uvloop

from palaver_server.addresses import is_unix
from palaver_server.bootstrap.ports import metrics_address, reserved
from palaver_server.config import Settings
from palaver_server.errors import PalaverError
from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger(__name__)

_RESTART_INTERVAL_SECONDS = 1

# On macOS, libraries of the system may crash in a forked process.
if sys.platform == "darwin":
    _CONTEXT = multiprocessing.get_context("spawn")
else:
    _CONTEXT = multiprocessing.get_context("fork")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Serves with some settings on a database until SIGTERM.
Serve: TypeAlias = Callable[[Settings, str], Coroutine[Any, Any, None]]


def run_workers(serve: Serve, settings: Settings, database_url: str) -> None:
    """Run the configured number of worker processes, each of which serves, until SIGTERM or SIGINT.

    Raises:
        RuntimeError: The address is in use, or a worker exited by itself. The text has the reason.
    """
    with _listen_address(settings) as address:
        settings = settings.model_copy(update={"listen": address})
        workers = [
            _Worker(serve, _settings_of(settings, number), database_url)
            for number in range(settings.workers)
        ]
        with _stopped_by_signals(workers):
            try:
                for worker in workers:
                    worker.start()
                while running := {w.sentinel: w for w in workers if w.sentinel is not None}:
                    for sentinel in wait(list(running)):
                        running[sentinel].restart()  # type: ignore[index] # an integer
            finally:
                for worker in workers:
                    worker.stop()
                for worker in workers:
                    worker.join()


def _listen_address(settings: Settings) -> Any:
    """Reserve the port, so that a worker that is replaced gets the same one."""
    return nullcontext(settings.listen) if is_unix(settings.listen) else reserved(settings.listen)


def _settings_of(settings: Settings, number: int) -> Settings:
    """Return the settings of one worker: only the first purges, each has its own metrics port."""
    update: dict[str, object] = {} if number == 0 else {"purge_interval_seconds": 0}
    update["metrics_listen"] = metrics_address(settings, number)
    return settings.model_copy(update=update)


@contextmanager
def _stopped_by_signals(workers: "list[_Worker]") -> Iterator[None]:
    """Stop workers when SIGTERM or SIGINT arrives during the block."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        for worker in workers:
            worker.stop()

    before = {number: signal.signal(number, stop) for number in _STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Worker:
    """A worker process, seen from the process that starts it."""

    def __init__(self, serve: Serve, settings: Settings, database_url: str) -> None:
        self._arguments = (serve, settings, database_url)
        self._process: BaseProcess | None = None
        self._reasons: Connection | None = None
        self._is_stopping = False

    @property
    def sentinel(self) -> int | None:
        """Ready to read when the process has ended; None if there is no process."""
        return self._process.sentinel if self._process else None

    def start(self) -> None:
        """Start the process, unless it is to stop."""
        if self._is_stopping:
            return
        self._reasons, worker_end = _CONTEXT.Pipe()
        arguments = (*self._arguments, worker_end, self._reasons)
        process = _CONTEXT.Process(target=_work, args=arguments)
        # Blocked until the process has handlers of its own, and does not run those of this one.
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        try:
            process.start()
            self._process = process
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
        worker_end.close()
        if self._is_stopping:  # since the beginning of this method
            process.terminate()

    def restart(self) -> None:
        """Replace the process, which has ended, unless it was to stop.

        Raises:
            RuntimeError: It exited by itself.
        """
        status, reason = self.join()
        if self._is_stopping:
            return
        if status >= 0:
            raise RuntimeError(
                reason or f"a worker process exited with status {status}; its log has the reason"
            )
        _LOGGER.warning(
            "a worker process was killed by signal %d; starting another in %d s",
            -status,
            _RESTART_INTERVAL_SECONDS,
        )
        time.sleep(_RESTART_INTERVAL_SECONDS)
        self.start()

    def stop(self) -> None:
        """Have the process finish its calls and exit."""
        self._is_stopping = True
        if self._process:
            self._process.terminate()

    def join(self) -> tuple[int, str]:
        """Wait until the process has ended; return its exit status, and a reason if it gave one."""
        if self._process is None or self._reasons is None:
            return 0, ""
        self._process.join()
        status, self._process = self._process.exitcode or 0, None
        with self._reasons as reasons, suppress(EOFError, OSError):
            return status, reasons.recv()
        return status, ""


def _work(
    serve: Serve, settings: Settings, database_url: str, parent: Connection, parents_end: Connection
) -> None:
    """Serve in a worker process, and end when the parent process is gone."""
    parents_end.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which sends SIGTERM
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
    logs.set_up(level=settings.log_level, format=settings.log_format)
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    try:
        uvloop.run(serve(settings, database_url))
    except (PalaverError, RuntimeError) as error:
        parent.send(str(error))
        sys.exit(1)
    except Exception:
        _LOGGER.critical("a worker process ended by an unexpected error", exc_info=True)
        sys.exit(1)


def _end_with_parent(parent: Connection) -> None:
    """End this process as soon as the parent has ended, which only a signal does earlier.

    The embedded PostgreSQL ends with the parent, and the next start needs the port.
    """
    with suppress(EOFError, OSError):  # raised when the parent's end of the pipe closes
        parent.recv()
    os.kill(os.getpid(), signal.SIGKILL)
