"""Fair shares: a credential that overloads the server does not stop another's calls."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message

from palaver.v1.memory_service_pb2 import (
    ListMessagesRequest,
    SearchMemoryRequest,
    StreamMessagesRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
)
from palaver.v1.user_service_pb2 import DeleteUserRequest
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused, struct, wait_until
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    count_blocked,
    wait_until_blocked,
)
from tests.support.locks import locked

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# A function that starts a server with these settings, and returns clients with a credential each.
StartPair = Callable[..., tuple[Client, Client]]


@pytest.fixture
def start_pair(start_server: StartServer, keys_file: KeysFile) -> Iterator[StartPair]:
    """Start a server, and return an abusive client and a well-behaved one."""
    with ExitStack() as stack:

        def start(**settings: Any) -> tuple[Client, Client]:
            keys = keys_file.add(), keys_file.add()
            server = start_server(credentials=keys_file.path, **settings)
            greedy, modest = (stack.enter_context(caller(server.address, key)) for key in keys)
            for session_id in ("s", "t", "u"):
                modest.add(session_id, "hello", timeout=MAX_WAIT_SECONDS)
            return greedy, modest

        yield start


class Worst(NamedTuple):
    """Ten calls that hold database connections for long.

    Attributes:
        lock: The statement with which another transaction keeps them waiting.
        request: What each of the calls asks for.
        blocked: How many of them may run on a server with eight connections.
    """

    lock: str
    request: Message
    blocked: int


_LOCK_USER = "SELECT FROM users WHERE user_id = 'ada' FOR UPDATE"
_LOCK_MESSAGES = "LOCK TABLE messages IN ACCESS EXCLUSIVE MODE"

WORST = {
    "deletes of the same user": Worst(_LOCK_USER, DeleteUserRequest(user_id="ada"), 4),
    "reads": Worst(_LOCK_MESSAGES, ListMessagesRequest(session_id="s"), 4),
    "searches": Worst(_LOCK_MESSAGES, SearchMemoryRequest(text="hello"), 2),
}

# Visits all combinations of 14 of the nested lists: a billion, of 20 lists.
_SLOW_PATH = f"exists($.a{14 * '.**'} ? (@ == 1))"


def nested(levels: int) -> list[Any]:
    """Return a list in a list and so on."""
    return [nested(levels - 1)] if levels else []


def delete(client: Client, session_id: str) -> Any:
    """Start to delete a session, and return the call."""
    request = DeleteSessionRequest(session_id=session_id)
    return client.sessions.DeleteSession.future(request, timeout=60)


def get(client: Client, session_id: str) -> None:
    """Get a session, soon."""
    client.sessions.GetSession(GetSessionRequest(session_id=session_id), timeout=5)


def wait_until_refused(calls: Sequence[Any], count: int) -> None:
    """Wait until this many calls are refused, and no other has ended."""
    wait_until(
        lambda: [call.code() for call in calls if call.done()] == count * [RESOURCE_EXHAUSTED]
    )


def test_fair_shares_running_calls_of_another_leave_slots(
    start_pair: StartPair, database_url: str, database: Connection
) -> None:
    greedy, modest = start_pair(max_running_calls=4)

    with locked(database_url):
        calls = [delete(greedy, "s") for _ in range(10)]
        wait_until_blocked(database, 2)
        get(modest, "t")
        assert not any(call.done() for call in calls)


def test_fair_shares_full_queue_of_another_leaves_places(
    start_pair: StartPair, database_url: str, database: Connection
) -> None:
    greedy, modest = start_pair(max_running_calls=2, max_waiting_calls=4)

    with locked(database_url, "s"), locked(database_url, "t"):
        flood = [delete(greedy, "s") for _ in range(20)]
        running = delete(modest, "t")
        wait_until_blocked(database, 2)
        wait_until_refused(flood, 15)
        waiting = delete(modest, "u")
        wait_until_refused(flood, 16)

    assert [call.result().messages_deleted for call in (running, waiting)] == [1, 1]


def test_fair_shares_streams_of_another_leave_streams(start_pair: StartPair) -> None:
    greedy, modest = start_pair(max_streams=2)
    for _ in range(20):  # more than gRPC buffers for a reader
        modest.add("s", "x" * 1_000_000, timeout=MAX_WAIT_SECONDS)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)
    stalled = greedy.memory.StreamMessages(request)
    next(stalled)

    with refused(RESOURCE_EXHAUSTED):
        list(greedy.memory.StreamMessages(request))
    assert len(list(modest.memory.StreamMessages(request))) == 21

    stalled.cancel()


def start_to_send(client: Client, request: Message) -> Any:
    """Start the call that takes this request, and return it."""
    name = type(request).__name__.removesuffix("Request")
    stubs = (client.sessions, client.memory, client.users)
    method = next(getattr(stub, name) for stub in stubs if hasattr(stub, name))
    return method.future(request, timeout=60)


@pytest.mark.parametrize("worst", WORST)
def test_fair_shares_connections_of_another_leave_connections(
    start_pair: StartPair, rival: Connection, database: Connection, worst: str
) -> None:
    greedy, modest = start_pair(pool_max_size=8)
    modest.add_user("ada")
    rival.execute(WORST[worst].lock)

    calls = [start_to_send(greedy, WORST[worst].request) for _ in range(10)]
    wait_until_blocked(database, WORST[worst].blocked)
    get(modest, "t")

    assert count_blocked(database) == WORST[worst].blocked
    assert not any(call.done() for call in calls)
    rival.rollback()


def test_fair_shares_slow_filters_of_another_leave_connections(
    start_pair: StartPair, database: Connection
) -> None:
    greedy, modest = start_pair(pool_max_size=8)
    modest.add_session("deep", metadata=struct(a=nested(20)))
    request = ListSessionsRequest(filter=SessionFilter(metadata=_SLOW_PATH))

    calls = [start_to_send(greedy, request) for _ in range(10)]
    wait_until(lambda: count_running(database, "jsonpath") == 2)
    get(modest, "t")

    assert count_running(database, "jsonpath") == 2
    for call in calls:
        call.cancel()


def count_running(database: Connection, part: str) -> int:
    """Count the statements that run and have this part."""
    row = database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND state = 'active' AND pid <> pg_backend_pid() AND query LIKE %s",
        [f"%{part}%"],
    ).fetchone()
    return int(row[0]) if row else 0


def test_fair_shares_slow_filter_ends_at_the_filter_timeout(start_server: StartServer) -> None:
    palaver = start_server(filter_timeout_seconds=0.2)
    palaver.add_session("deep", metadata=struct(a=nested(20)))

    with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
        palaver.session_ids(metadata=_SLOW_PATH)
