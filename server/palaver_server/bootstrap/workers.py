"""Several server processes on one port, because a Python process uses only one core.

SO_REUSEPORT has the kernel assign each connection to one of the processes. They share only the
database, like servers on several machines.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeAlias

import uvloop

from palaver_server.bootstrap.ports import metrics_address, reserved
from palaver_server.config import Settings
from palaver_server.errors import PalaverError
from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger(__name__)

_RESTART_INTERVAL_SECONDS = 1

# Spawned: a forked process would inherit locks that gRPC's threads hold, but not the threads.
_SPAWN = multiprocessing.get_context("spawn")

# Serves with some settings on a database until SIGTERM.
Serve: TypeAlias = Callable[[Settings, str], Coroutine[Any, Any, None]]


async def run_workers(serve: Serve, settings: Settings, database_url: str) -> None:
    """Run the configured number of worker processes until SIGTERM or SIGINT.

    Each runs `serve`, which must be a module's function: it is pickled. A worker that is killed by
    a signal is replaced.

    Raises:
        RuntimeError: The address is in use, or a worker exited by itself after logging the reason.
    """
    with reserved(settings.listen) as address:
        workers = [
            _Worker(_settings_of(settings.model_copy(update={"listen": address}), number))
            for number in range(settings.workers)
        ]

        def stop() -> None:
            for worker in workers:
                worker.stop()

        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop)
        try:
            async with asyncio.TaskGroup() as group:
                for worker in workers:
                    group.create_task(worker.run(serve, database_url))
        except* RuntimeError as errors:
            raise errors.exceptions[0] from None


def _settings_of(settings: Settings, number: int) -> Settings:
    """Return the settings of one worker: only the first purges, each has its own metrics port."""
    update: dict[str, object] = {} if number == 0 else {"purge_interval_seconds": 0}
    update["metrics_listen"] = metrics_address(settings, number)
    return settings.model_copy(update=update)


class _Worker:
    """A worker process, seen from the process that starts it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: SpawnProcess | None = None
        self._is_stopping = False

    async def run(self, serve: Serve, database_url: str) -> None:
        """Keep the process running until it is stopped.

        Raises:
            RuntimeError: The process exited by itself.
        """
        while not self._is_stopping:
            status = await self._run_once(serve, database_url)
            if self._is_stopping:
                return
            if status >= 0:
                raise RuntimeError(
                    f"a worker process exited with status {status}; its log has the reason"
                )
            _LOGGER.warning(
                "a worker process was killed by signal %d; starting another in %d s",
                -status,
                _RESTART_INTERVAL_SECONDS,
            )
            await asyncio.sleep(_RESTART_INTERVAL_SECONDS)

    def stop(self) -> None:
        """Have the process finish its calls and exit."""
        self._is_stopping = True
        if self._process:
            self._process.terminate()

    async def _run_once(self, serve: Serve, database_url: str) -> int:
        parent_end, worker_end = _SPAWN.Pipe()
        with parent_end:
            arguments = (serve, self._settings, database_url, worker_end)
            self._process = process = _SPAWN.Process(target=_work, args=arguments)
            process.start()
            worker_end.close()
            try:
                await _readable(process.sentinel)
            finally:
                process.terminate()
                process.join()
                self._process = None
            return process.exitcode or 0


async def _readable(file_descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(file_descriptor, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(file_descriptor)


def _work(serve: Serve, settings: Settings, database_url: str, parent: Connection) -> None:
    """Serve in a worker process, and stop when the parent process is gone."""

    def stop_with_parent() -> None:
        with suppress(EOFError, OSError):  # raised when the parent's end of the pipe closes
            parent.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_with_parent, daemon=True).start()
    logs.set_up(level=settings.log_level, format=settings.log_format)
    try:
        uvloop.run(serve(settings, database_url))
    except (PalaverError, RuntimeError) as error:
        _LOGGER.error("%s", error)
        sys.exit(1)
    except Exception:
        _LOGGER.critical("a worker process ended by an unexpected error", exc_info=True)
        sys.exit(1)
