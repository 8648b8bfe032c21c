"""Listings by a slow filter over many sessions: they leave connections to other calls."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import GetSessionRequest, ListSessionsRequest
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection

pytestmark = pytest.mark.slow

SESSIONS = 500_000
POOL = 8

_FILL = f"""
    INSERT INTO sessions (session_id, metadata)
    SELECT 's' || i, jsonb_build_object('number', i, 'tags', '[[["a"], ["b"]], ["c"]]'::jsonb)
    FROM generate_series(1, {SESSIONS}) i
"""

# Matches no session, has no use for an index, and visits every value.
SLOW = 'exists($.**.**.** ? (@.type() == "null"))'


@pytest.fixture
def callers(
    start_server: StartServer, keys_file: KeysFile, database: Connection
) -> Iterator[list[Client]]:
    """Clients of one server, with a credential each."""
    keys = [keys_file.add() for _ in range(3)]
    database.execute(_FILL)
    server = start_server(credentials=keys_file.path, pool_max_size=POOL)
    with ExitStack() as stack:
        yield [stack.enter_context(caller(server.address, key)) for key in keys]


def count_filtering(database: Connection) -> int:
    """Count the connections that are in a transaction of a filtered listing."""
    row = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'active' AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
        " AND query LIKE '%jsonpath%'"
    ).fetchone()
    return int(row[0]) if row else 0


def start_to_list(client: Client) -> Any:
    request = ListSessionsRequest(filter=SessionFilter(metadata=SLOW))
    return client.sessions.ListSessions.future(request, timeout=MAX_WAIT_SECONDS)


def test_slow_filters_of_two_callers_leave_half_of_the_connections(
    callers: list[Client], database: Connection
) -> None:
    *greedy, modest = callers
    calls = [start_to_list(client) for client in greedy for _ in range(2 * POOL)]
    wait_until(lambda: count_filtering(database) >= POOL // 2 - 1)  # one is left for others

    for number in range(20):
        request = GetSessionRequest(session_id=f"s{number + 1}")
        modest.sessions.GetSession(request, timeout=MAX_WAIT_SECONDS)
        modest.add("new", "hello", timeout=MAX_WAIT_SECONDS)
        assert len(modest.list_sessions(limit=10).sessions) == 10
        assert modest.session_ids(metadata=f"$.number == {number + 1}") == [f"s{number + 1}"]
        assert count_filtering(database) <= POOL // 2

    for call in calls:
        call.cancel()
