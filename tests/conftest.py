"""A real PostgreSQL for the session, a database of its own for each test, and servers on it."""

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol, TypeVar

import psycopg
import pytest
import uvloop
from psycopg import sql
from psycopg.conninfo import make_conninfo

from palaver_server.bootstrap import server as app
from palaver_server.config import Settings
from palaver_server.database.migrate import migrate
from palaver_server.database.pool import Pool
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client, connected
from tests.support.endpoint import Endpoint, running_endpoint
from tests.support.processes import scratch_directory

T = TypeVar("T")

# Tests crash processes, not machines: what the kernel has is as good as on the disk.
_FAST = {"fsync": "off", "synchronous_commit": "off", "max_connections": "200"}


class Run(Protocol):
    """Runs a coroutine on the loop of the tests, and waits for its result."""

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T: ...


class StartServer(Protocol):
    """Starts a server with these settings, and gives a client of it."""

    def __call__(self, **settings: Any) -> Client: ...


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server: PALAVER_TEST_DATABASE_URL, or an embedded one."""
    given = os.environ.get("PALAVER_TEST_DATABASE_URL")
    if given:
        yield given
        return
    with scratch_directory() as directory, EmbeddedPostgres(directory, _FAST) as server:
        yield server.url


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """An event loop in a thread, as the service runs on, for all tests."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run_and_wait(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    yield run_and_wait
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@contextmanager
def _database(postgres: str, template: str = "template1") -> Iterator[str]:
    """Creates a database, and drops it after the block."""
    name = f"palaver_{uuid.uuid4().hex[:12]}"
    identifiers = {"name": sql.Identifier(name), "template": sql.Identifier(template)}
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {name} TEMPLATE {template}").format(**identifiers)
        )
        try:
            yield name
        finally:
            connection.execute(sql.SQL("DROP DATABASE {name} WITH (FORCE)").format(**identifiers))


@pytest.fixture(scope="session")
def template(postgres: str, run: Run) -> Iterator[str]:
    """The name of a database in which nothing but the migrations ran."""
    with _database(postgres) as name:
        run(migrate(make_conninfo(postgres, dbname=name)))
        yield name


@pytest.fixture
def empty_database_url(postgres: str) -> Iterator[str]:
    """The URL of a database in which nothing ran."""
    with _database(postgres) as name:
        yield make_conninfo(postgres, dbname=name)


@pytest.fixture
def database_url(postgres: str, template: str) -> Iterator[str]:
    """The URL of a database of the test's own, migrated."""
    with _database(postgres, template) as name:
        yield make_conninfo(postgres, dbname=name)


@pytest.fixture
def database(database_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to the test's database, in autocommit mode."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def pool(database_url: str, run: Run) -> Iterator[Pool]:
    """The stores' pool, on the test's database."""
    pool = Pool(database_url, min_size=1, max_size=40, timeout=10)
    run(pool.open())
    yield pool
    run(pool.close())


@contextmanager
def _server(run: Run, settings: Settings, database_url: str) -> Iterator[str]:
    """Runs a server in the block, and gives its address."""
    address: Future[str] = Future()
    stop: list[Callable[[], object]] = []

    async def serve() -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.append(lambda: loop.call_soon_threadsafe(stopped.set))
        try:
            async with app.running(settings, database_url) as listening_on:
                address.set_result(listening_on)
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


@pytest.fixture
def start_server(run: Run, database_url: str) -> Iterator[StartServer]:
    """Starts servers on the test's database, for as long as the test runs."""
    with ExitStack() as stack:

        def start(**given: Any) -> Client:
            settings = {"listen": "127.0.0.1:0", "pool_max_size": 20, **given}
            settings = {"shutdown_drain_seconds": 0, "shutdown_grace_seconds": 0, **settings}
            settings = {"purge_interval_seconds": 0, **settings}
            settings = {"embedder": "none", **settings}
            url = settings.pop("database_url", database_url)
            address = stack.enter_context(_server(run, Settings(**settings), url))
            return stack.enter_context(connected(address))

        yield start


@pytest.fixture
def palaver(start_server: StartServer) -> Client:
    """A client of a server on the test's database."""
    return start_server()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An HTTP endpoint that embeds."""
    with running_endpoint() as endpoint:
        yield endpoint
