"""Simultaneous calls, and transactions that a test holds at a chosen statement."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Self, TypeVar, cast

import grpc
import psycopg

from tests.support.client import Client, wait_until
from tests.support.databases import TEST_SCHEMA

T = TypeVar("T")

Connection = psycopg.Connection[tuple[Any, ...]]

# After this long a wait is taken for endless, on a busy machine too.
MAX_WAIT_SECONDS = 20.0


@dataclass
class Outcomes(Generic[T]):
    """Results in the order of the calls, and refusals counted by code."""

    results: list[T]
    refusals: Counter[grpc.StatusCode]

    def all_succeeded(self) -> list[T]:
        """Return the results; fail if a call was refused."""
        assert not self.refusals, f"calls were refused: {self.refusals}"
        return self.results


def at_once(calls: Sequence[Callable[[], T]]) -> Outcomes[T]:
    """Make all calls at the same time, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def call_when_all_are_there(call: Callable[[], T]) -> T:
        barrier.wait(MAX_WAIT_SECONDS)
        return call()

    outcomes: Outcomes[T] = Outcomes([], Counter())
    for future in [begin(partial(call_when_all_are_there, call)) for call in calls]:
        try:
            outcomes.results.append(future.result(2 * MAX_WAIT_SECONDS))
        except grpc.RpcError as error:
            outcomes.refusals[cast("grpc.Call", error).code()] += 1
    return outcomes


def begin(call: Callable[[], T]) -> Future[T]:
    """Start a call in a thread, and return its future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)

    # A daemon thread: a call that never ends fails its test without blocking the end of the run.
    threading.Thread(target=run, daemon=True).start()
    return future


def unless_refused(code: grpc.StatusCode, call: Callable[[], T]) -> T | None:
    """Make a call; return None if it is refused with this code, and raise other refusals."""
    try:
        return call()
    except grpc.RpcError as error:
        if cast("grpc.Call", error).code() is not code:
            raise
        return None


@contextmanager
def crowd(clients: Sequence[Client], size: int, *, connections: int = 8) -> Iterator[list[Client]]:
    """Yield callers, spread over the servers of these clients and over this many connections."""
    with ExitStack() as stack:
        connected = []
        for number in range(connections):
            address = clients[number % len(clients)].address
            # Without this option, all channels of a process to an address share a connection.
            channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
            connected.append(Client(stack.enter_context(channel), address))
        for client in connected:
            grpc.channel_ready_future(client.channel).result(MAX_WAIT_SECONDS)
        yield [connected[number % connections] for number in range(size)]


_BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


def count_blocked(database: Connection) -> int:
    """Count the connections to the database that wait for a lock of another connection."""
    row = database.execute(_BLOCKED).fetchone()
    return int(row[0]) if row else 0


def wait_until_blocked(database: Connection, count: int = 1) -> None:
    """Wait until this many connections wait for a lock of another connection."""
    wait_until(lambda: count_blocked(database) == count)


class Gate:
    """A trigger that blocks transactions at an event on a row until the test opens it.

    Args:
        database_url: The database.
        event: The event, such as `BEFORE INSERT ON messages`.
        of: A condition for the rows; all rows by default.
    """

    KEY = 7_210_311

    def __init__(self, database_url: str, event: str, *, of: str = "true") -> None:
        self._connection: Connection = psycopg.connect(database_url, autocommit=True)
        self._event, self._of = event, of

    def __enter__(self) -> Self:
        self._connection.execute(f"SELECT pg_advisory_lock({self.KEY})")
        self._connection.execute(
            f"""
            CREATE SCHEMA IF NOT EXISTS {TEST_SCHEMA};
            CREATE OR REPLACE FUNCTION {TEST_SCHEMA}.gate() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM pg_advisory_xact_lock_shared({self.KEY});
                RETURN coalesce(NEW, OLD);
            END $$
            """
        )
        self._connection.execute(
            f"CREATE TRIGGER gate {self._event} FOR EACH ROW WHEN ({self._of})"
            f" EXECUTE FUNCTION {TEST_SCHEMA}.gate()"
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()  # opens it

    def open(self) -> None:
        """Let all transactions through, permanently."""
        self._connection.execute(f"SELECT pg_advisory_unlock({self.KEY})")

    def wait_until_reached(self) -> None:
        """Wait until a transaction is blocked at the gate."""
        wait_until(lambda: self._waiting() > 0)

    def _waiting(self) -> int:
        row = self._connection.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            f" AND objid = {self.KEY}"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        ).fetchone()
        return int(row[0]) if row else 0
