"""Servers that run in the process of the tests, on the tests' event loop."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from psycopg.conninfo import make_conninfo

from palaver_server.bootstrap import server
from palaver_server.config import Settings
from tests.support.database_setups import DatabaseSetup
from tests.support.databases import Database

if TYPE_CHECKING:
    from tests.conftest import Run

# How long tasks that outlive a test, such as a call whose caller hung up, may take to end.
_SECONDS_TO_SETTLE = 5

_SHARED = "palaver of many tests"

# A server that ends at once, and does nothing unasked.
_DEFAULTS: dict[str, Any] = {
    "listen": "127.0.0.1:0",
    "pool_min_size": 1,
    "pool_max_size": 20,
    "shutdown_drain_seconds": 0,
    "shutdown_grace_seconds": 0,
    "purge_interval_seconds": 0,
    "embedder": "none",
}


@contextmanager
def running_server(run: "Run", database_url: str, **settings: Any) -> Iterator[str]:
    """Run a server during the block, and yield its address."""
    address: Future[str] = Future()
    stop: list[Callable[[], object]] = []

    given = {**_DEFAULTS, "database_url": database_url, **settings}

    async def serve() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        try:
            async with server.running(Settings(**given), database_url) as listening:
                address.set_result(listening)
                await stopped.wait()
        except BaseException as error:
            if not address.done():
                address.set_exception(error)
            raise

    thread = threading.Thread(target=run, args=(serve(),))
    thread.start()
    try:
        yield address.result()
    finally:
        stop[0]()
        thread.join()


def running_tasks(run: "Run") -> Counter[str]:
    """Count the tasks of the tests' event loop by the name of what they run."""

    async def count() -> Counter[str]:
        tasks: set[asyncio.Task[Any]] = asyncio.all_tasks() - {asyncio.current_task()}
        return Counter(str(getattr(task.get_coro(), "__qualname__", "")) for task in tasks)

    return run(count())


@dataclass(frozen=True)
class Shared:
    """A server with default settings, and the only database that it uses."""

    address: str
    database: Database
    stop: Callable[[], None]


class SharedServer:
    """A server that tests use in turn, on a database that is emptied in between.

    Both are replaced when a test leaves anything behind: a running call or task, a connection
    lost, or a change to the database other than rows.
    """

    def __init__(self, run: "Run", setup: DatabaseSetup, template: str) -> None:
        self._run = run
        self._setup = setup
        self._template = template
        self._shared: Shared | None = None

    @contextmanager
    def lent(self) -> Iterator[Shared]:
        """Yield a server that no other test calls during the block."""
        shared = self._shared = self._shared or self._start()
        connections = shared.database.kept_connections()
        tasks = running_tasks(self._run)
        try:
            yield shared
        finally:
            if not (
                self._settles(tasks)
                and shared.database.reset()
                and connections <= shared.database.kept_connections()
            ):
                self.close()

    def close(self) -> None:
        """Stop the server."""
        if self._shared:
            self._shared.stop()
            self._shared = None

    def _start(self) -> Shared:
        with ExitStack() as stack:
            database = Database(self._setup.url, self._template, kept=_SHARED)
            stack.callback(database.drop)
            url = make_conninfo(database.url, application_name=_SHARED)
            settings = self._setup.settings_for(url)
            address = stack.enter_context(running_server(self._run, **settings))
            return Shared(address, database, stack.pop_all().close)

    def _settles(self, before: Counter[str]) -> bool:
        """Wait until no more tasks run than before; return whether that happened in time."""
        deadline = time.monotonic() + _SECONDS_TO_SETTLE
        while not running_tasks(self._run) <= before:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        return True
