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

# A function that starts a server with these settings, and returns this many abusive clients and a
# well-behaved one, with a credential each.
StartCallers = Callable[..., tuple[list[Client], Client]]

# The same with one abusive client.
StartPair = Callable[..., tuple[Client, Client]]


@pytest.fixture
def start_callers(start_server: StartServer, keys_file: KeysFile) -> Iterator[StartCallers]:
    """Start a server, and return abusive clients and a well-behaved one."""
    with ExitStack() as stack:

        def start(count: int, **settings: Any) -> tuple[list[Client], Client]:
            keys = [keys_file.add() for _ in range(count + 1)]
            server = start_server(credentials=keys_file.path, **settings)
            modest, *greedy = (stack.enter_context(caller(server.address, key)) for key in keys)
            for session_id in ("s", "t", "u"):
                modest.add(session_id, "hello", timeout=MAX_WAIT_SECONDS)
            return greedy, modest

        yield start


@pytest.fixture
def start_pair(start_callers: StartCallers) -> StartPair:
    """Start a server, and return an abusive client and a well-behaved one."""

    def start(**settings: Any) -> tuple[Client, Client]:
        (greedy,), modest = start_callers(1, **settings)
        return greedy, modest

    return start


class Worst(NamedTuple):
    """Ten calls that hold database connections for long.

    Attributes:
        lock: The statement with which another transaction keeps them waiting.
        request: What each of the calls asks for.
        blocked: How many run on a server with eight connections, of one credential, then of two
            and of three with as many calls each.
    """

    lock: str
    request: Message
    blocked: tuple[int, int, int]


_LOCK_USER = "SELECT FROM users WHERE user_id = 'ada' FOR UPDATE"
_LOCK_MESSAGES = "LOCK TABLE messages IN ACCESS EXCLUSIVE MODE"

WORST = {
    "deletes of the same user": Worst(_LOCK_USER, DeleteUserRequest(user_id="ada"), (4, 6, 7)),
    "reads": Worst(_LOCK_MESSAGES, ListMessagesRequest(session_id="s"), (4, 6, 7)),
    "searches": Worst(_LOCK_MESSAGES, SearchMemoryRequest(text="hello"), (2, 3, 4)),
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


def test_fair_shares_of_credential_with_weight_are_more(
    start_server: StartServer, keys_file: KeysFile, database_url: str, database: Connection
) -> None:
    key = keys_file.add(weight=2)
    server = start_server(credentials=keys_file.path, max_running_calls=6)

    with caller(server.address, key) as heavy:
        heavy.add("s", "hello", timeout=MAX_WAIT_SECONDS)
        with locked(database_url):
            calls = [delete(heavy, "s") for _ in range(10)]
            wait_until_blocked(database, 4)
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
def test_fair_shares_connections_of_three_others_leave_connections(
    start_callers: StartCallers, rival: Connection, database: Connection, worst: str
) -> None:
    lock, request, blocked = WORST[worst]
    all_greedy, modest = start_callers(3, pool_max_size=8)
    modest.add_user("ada")
    rival.execute(lock)

    calls = []
    for greedy, count in zip(all_greedy, blocked, strict=True):
        calls += [start_to_send(greedy, request) for _ in range(10)]
        wait_until_blocked(database, count)
        get(modest, "t")
        assert count_blocked(database) == count

    assert not any(call.done() for call in calls)
    rival.rollback()


def test_fair_shares_running_calls_of_three_others_leave_slots(
    start_callers: StartCallers, database_url: str, database: Connection
) -> None:
    all_greedy, modest = start_callers(3, max_running_calls=16)

    with locked(database_url):
        calls = []
        for greedy, count in zip(all_greedy, (8, 12, 14), strict=True):
            calls += [delete(greedy, "s") for _ in range(20)]
            wait_until_blocked(database, count)
        get(modest, "t")
        assert not any(call.done() for call in calls)


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
