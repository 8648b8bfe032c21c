"""Plans of a store's statements as executed: rows and pages that they touched."""

import json
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import errors
from psycopg.conninfo import make_conninfo

from palaver_server.database.pool import Pool
from tests.conftest import Run

_EXPLAIN = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "client_min_messages": "log",
}

# psycopg prepares a statement after 5 executions, and PostgreSQL then plans 5 more
# executions before it may choose a generic plan. A server in steady state is beyond both.
_TIMES = 12


@dataclass(frozen=True)
class Plan:
    """The executed plan of one statement."""

    root: dict[str, Any]

    @property
    def rows(self) -> int:
        """Rows of tables and indexes that were read, including discarded ones."""
        return sum(_rows(node) for node in _scans(self.root))

    @property
    def pages(self) -> int:
        """Pages that were read."""
        return int(self.root["Shared Hit Blocks"] + self.root["Shared Read Blocks"])

    @property
    def ways(self) -> set[str]:
        """The indexes that were used, and the tables that were scanned sequentially."""
        return {
            str(node.get("Index Name", node.get("Relation Name"))) for node in _scans(self.root)
        }


class Explained:
    """A pool, and the plans of its statements."""

    def __init__(self, pool: Pool, run: Run) -> None:
        self.pool = pool
        self._run = run
        self._plans: list[Plan] = []

    def note(self, diagnostic: errors.Diagnostic) -> None:
        """Store a plan from a notice of the database.

        Those that read no table are of constant functions, which PostgreSQL runs while it plans.
        """
        _, found, text = (diagnostic.message_primary or "").partition("plan:\n")
        if found and (plan := Plan(json.loads(text)["Plan"])).ways:
            self._plans.append(plan)

    def all_of(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> list[Plan]:
        """Make a call, and return the plans of its statements."""
        self._plans.clear()
        self._run(self._finish(call()))
        return list(self._plans)

    async def _finish(self, call: Coroutine[Any, Any, Any]) -> None:
        await call
        async with self.pool.connection():  # after transactions that the call did not wait for
            pass

    def costliest(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> Plan:
        """Repeat a call until its plans are settled; return the plan that touched most."""
        costliest = []
        for _ in range(_TIMES):
            self._plans.clear()
            self._run(self._finish(call()))
            costliest.append(max(self._plans, key=lambda plan: plan.rows))
        return max(costliest, key=lambda plan: plan.rows)


@contextmanager
def explained(database_url: str, run: Run) -> Iterator[Explained]:
    """Yield a pool with one connection, on which every statement is explained."""
    options = " ".join(f"-c {name}={value}" for name, value in _EXPLAIN.items())
    pool = Pool(make_conninfo(database_url, options=options), min_size=1, max_size=1, timeout=10)
    explained = Explained(pool, run)

    async def listen() -> None:
        await pool.open()
        async with pool.connection() as connection:
            connection.add_notice_handler(explained.note)

    run(listen())
    yield explained
    run(pool.close())


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "Scan" in node["Node Type"] and ("Relation Name" in node or "Index Name" in node):
        yield node
    for child in node.get("Plans", []):
        yield from _scans(child)


def _rows(node: dict[str, Any]) -> int:
    removed = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(
        node["Actual Loops"] * (node["Actual Rows"] + sum(node.get(name, 0) for name in removed))
    )
