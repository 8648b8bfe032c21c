"""Several processes that share a port: Python uses one core a process.

The kernel gives each connection to one of them. They share nothing but the database, as
servers on several machines do.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeAlias

import uvloop

from palaver_server.addresses import split, with_port
from palaver_server.config import Settings
from palaver_server.errors import PalaverError
from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger(__name__)

_SECONDS_BETWEEN_STARTS = 1

# A fork would take gRPC's threads' locks with it, but not the threads.
_SPAWN = multiprocessing.get_context("spawn")


# What a process does: it serves by some settings on a database, until SIGTERM.
Serve: TypeAlias = Callable[[Settings, str], Coroutine[Any, Any, None]]


async def run_workers(serve: Serve, settings: Settings, database_url: str) -> None:
    """Runs as many processes as the settings say, until SIGTERM or SIGINT.

    Each runs `serve`, a function of a module. One that a signal killed is replaced.

    Raises:
        RuntimeError: The address is in use, or a process ended by itself; it has said why.
    """
    with _reserved(settings.listen) as address:
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
    """Makes the settings of one process: one of them purges, each has metrics of its own."""
    update: dict[str, object] = {} if number == 0 else {"purge_interval_seconds": 0}
    if settings.metrics_listen:
        port = split(settings.metrics_listen)[1]
        update["metrics_listen"] = with_port(settings.metrics_listen, port and port + number)
    return settings.model_copy(update=update)


@contextmanager
def _reserved(address: str) -> Iterator[str]:
    """Keeps a port for the block, on which nobody listens yet; gives the address with it."""
    host, port = split(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as alone:  # by which a port in use would be shared
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(place)
            place = alone.getsockname()
        reserved = socket.socket(family)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(place)
    except OSError as error:
        raise RuntimeError(f"cannot listen on {address}: {error.strerror}") from error
    with reserved:
        yield with_port(address, place[1])


class _Worker:
    """One of the processes, as the one that started it sees it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: SpawnProcess | None = None
        self._is_stopping = False

    async def run(self, serve: Serve, database_url: str) -> None:
        """Keeps the process running until it is stopped.

        Raises:
            RuntimeError: It ended by itself.
        """
        while not self._is_stopping:
            status = await self._run_once(serve, database_url)
            if self._is_stopping:
                return
            if status >= 0:
                raise RuntimeError(f"a worker ended with status {status}")
            _LOGGER.warning("a worker died of signal %d: starting another", -status)
            await asyncio.sleep(_SECONDS_BETWEEN_STARTS)

    def stop(self) -> None:
        """Has the process finish its calls and end."""
        self._is_stopping = True
        if self._process:
            self._process.terminate()

    async def _run_once(self, serve: Serve, database_url: str) -> int:
        ours, theirs = _SPAWN.Pipe()
        with ours:
            arguments = (serve, self._settings, database_url, theirs)
            self._process = process = _SPAWN.Process(target=_work, args=arguments)
            process.start()
            theirs.close()
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
    """Serves, in a process of its own, for as long as the one that started it is there."""

    def end_with_the_parent() -> None:
        with suppress(EOFError, OSError):
            parent.recv()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_the_parent, daemon=True).start()
    logs.set_up(level=settings.log_level, format=settings.log_format)
    try:
        uvloop.run(serve(settings, database_url))
    except (PalaverError, RuntimeError) as error:
        sys.exit(f"Error: {error}")
