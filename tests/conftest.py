"""A real PostgreSQL for the session, a database of its own for each test, and servers on it."""

import asyncio
import gc
import os
import threading
from collections.abc import Coroutine, Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import psycopg
import pytest
import uvloop
from psycopg.conninfo import conninfo_to_dict

from palaver_server.database.migrate import migrate
from palaver_server.database.pool import Pool
from tests.support.client import Client, connected
from tests.support.database_setups import (
    DEFAULT_SETUP,
    SETUPS,
    SKIPPED_WITHOUT_VECTORS,
    DatabaseSetup,
    has_vectors,
    setup_of,
)
from tests.support.databases import Databases, new_database
from tests.support.endpoint import Endpoint, running_endpoint
from tests.support.servers import Shared, SharedServer, running_server, running_tasks
from tests.support.watching import eventually

T = TypeVar("T")


# Reasons for which a test may be skipped with --no-skips: the kernel or the checkout lack something
# that no package installs.
EXPECTED_SKIPS = (
    SKIPPED_WITHOUT_VECTORS,
    "control groups cannot be made here",
    "the memory of control groups cannot be limited here",
    "the history lacks commit",
)


class Run(Protocol):
    """A function that runs a coroutine on the loop of the tests, and returns its result."""

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T: ...


class StartServer(Protocol):
    """A function that starts a server with these settings, and returns a client of it."""

    def __call__(self, **settings: Any) -> Client: ...


def pytest_xdist_auto_num_workers() -> int:
    """Run more tests at a time than there are cores: many wait for a server or a timeout."""
    return (os.cpu_count() or 1) * 3 // 2


@pytest.hookimpl(tryfirst=True)  # before `-m` selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of database set-ups, and slow ones; skip those whose set-up has no vectors.

    Tests are slow that start processes, inject faults or generate their input.
    """
    for item in items:
        directory = item.path.relative_to(Path(__file__).parent).parts[0]
        is_generated = getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
        if directory in {"process", "faults"} or is_generated:
            item.add_marker(pytest.mark.slow)
        if directory == "databases":
            item.add_marker(pytest.mark.databases)
        if item.get_closest_marker("vectors") and not has_vectors(setup_of(item)):
            item.add_marker(pytest.mark.skip(reason=SKIPPED_WITHOUT_VECTORS))


def pytest_collection_finish() -> None:
    """Exempt modules and tests from garbage collection: they live until the end of the run."""
    gc.collect()
    gc.freeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of runs in which everything that tests need is there."""
    parser.addoption("--no-skips", action="store_true", help="fail where a test is skipped")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test that uses a database on all set-ups that PALAVER_TEST_DATABASE names."""
    names = os.environ.get("PALAVER_TEST_DATABASE")
    if names and "database_setup" in metafunc.fixturenames:
        metafunc.parametrize("database_setup", names.split(","), indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With --no-skips, fail a test that is skipped for a reason that is not expected."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--no-skips"):
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else ""
        if not any(expected in reason for expected in EXPECTED_SKIPS):
            report.outcome = "failed"
            report.longrepr = f"{reason}, which --no-skips forbids"
    return report


@pytest.fixture(scope="session")
def database_setup(request: pytest.FixtureRequest) -> Iterator[DatabaseSetup]:
    """The database server of the tests, and how servers connect to it."""
    with SETUPS[getattr(request, "param", DEFAULT_SETUP)]() as setup:
        yield setup


@pytest.fixture(scope="session")
def postgres(database_setup: DatabaseSetup) -> str:
    """The URL of a superuser of the PostgreSQL server."""
    return database_setup.url


@pytest.fixture(scope="session")
def run() -> Iterator[Run]:
    """An event loop in a thread, as the service runs on, for all tests."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run_and_wait(coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result()

    yield run_and_wait
    try:
        eventually(lambda: not running_tasks(run_and_wait), "no task is left on the event loop")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def template(database_setup: DatabaseSetup, run: Run) -> Iterator[str]:
    """The name of a database in which nothing but the migrations ran."""
    with new_database(database_setup.url) as url:
        database_setup.prepare(url)
        run(migrate(database_setup.migration_url(url)))
        yield str(conninfo_to_dict(url)["dbname"])


@pytest.fixture(scope="session")
def databases(postgres: str, template: str) -> Iterator[Databases]:
    """Migrated databases."""
    with closing(Databases(postgres, template)) as databases:
        yield databases


@pytest.fixture
def empty_database_url(postgres: str) -> Iterator[str]:
    """The URL of a database in which nothing ran."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def shared_server(run: Run, database_setup: DatabaseSetup, template: str) -> Iterator[SharedServer]:
    """A server for the tests that need no settings of their own."""
    with closing(SharedServer(run, database_setup, template)) as server:
        yield server


@pytest.fixture
def shared(request: pytest.FixtureRequest, shared_server: SharedServer) -> Iterator[Shared | None]:
    """The shared server if the test asks for `palaver` and changes no settings; else None."""
    if {"monkeypatch", "caplog"} & set(request.fixturenames):
        shared_server.close()  # it would be patched too, and logs calls of earlier tests
        yield None
    elif "palaver" not in request.fixturenames:
        yield None
    else:
        with shared_server.lent() as shared:
            yield shared


@pytest.fixture
def database_url(shared: Shared | None, databases: Databases) -> Iterator[str]:
    """The URL of a migrated database that no other test uses at the same time."""
    if shared:
        yield shared.database.url
        return
    with databases.lent() as url:
        yield url


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


@pytest.fixture
def start_server(
    run: Run, database_setup: DatabaseSetup, database_url: str
) -> Iterator[StartServer]:
    """A function that starts servers on the test's database; they end with the test."""
    given = database_setup.settings_for(database_url)
    with ExitStack() as stack:

        def start(**settings: Any) -> Client:
            own = settings if "database_url" in settings else {**given, **settings}
            address = stack.enter_context(running_server(run, **own))
            return stack.enter_context(connected(address))

        yield start


@pytest.fixture
def palaver(shared: Shared | None, start_server: StartServer) -> Iterator[Client]:
    """A client of a server on the test's database, with default settings."""
    if shared is None:
        yield start_server()
        return
    with connected(shared.address) as client:
        yield client


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    """An HTTP endpoint that embeds."""
    with running_endpoint() as endpoint:
        yield endpoint
