"""Fair shares: one credential that does its worst does not stop another's calls."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import DeleteSessionRequest, GetSessionRequest
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, wait_until_blocked
from tests.support.locks import locked

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

# Starts a server with these settings, and gives clients with a credential each.
StartPair = Callable[..., tuple[Client, Client]]


@pytest.fixture
def start_pair(start_server: StartServer, keys_file: KeysFile) -> Iterator[StartPair]:
    """Start a server, and return a client that will do its worst and a well-behaved one."""
    with ExitStack() as stack:

        def start(**settings: Any) -> tuple[Client, Client]:
            keys = keys_file.add(), keys_file.add()
            server = start_server(credentials=keys_file.path, **settings)
            greedy, modest = (stack.enter_context(caller(server.address, key)) for key in keys)
            for session_id in ("s", "t", "u"):
                modest.add(session_id, "hello", timeout=MAX_WAIT_SECONDS)
            return greedy, modest

        yield start


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
