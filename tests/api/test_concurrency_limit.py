"""Concurrency limit: calls beyond the running and waiting ones are refused."""

from collections.abc import Sequence
from typing import Any

import grpc
from google.rpc.error_details_pb2 import RetryInfo

from palaver.v1.memory_service_pb2 import StreamMessagesRequest, StreamMessagesResponse
from palaver.v1.session_service_pb2 import DeleteSessionRequest
from palaver_server.interceptors.concurrency_limit import METADATA_BYTES_PER_PLACE
from tests.conftest import StartServer
from tests.support.client import Client, connected, refused, wait_until
from tests.support.concurrency import Connection, count_blocked, unless_refused, wait_until_blocked
from tests.support.locks import locked
from tests.support.watching import SERVING, health_of

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def delete(palaver: Client, session_id: str, **options: Any) -> Any:
    """Start to delete a session, and return the call."""
    request = DeleteSessionRequest(session_id=session_id)
    return palaver.sessions.DeleteSession.future(request, **options)


def one_waits(calls: Sequence[Any]) -> Any:
    """Wait until all of these calls but one are refused, and return that one."""

    def all_but_one() -> bool:
        return len([call for call in calls if call.done()]) == len(calls) - 1

    wait_until(all_but_one)
    (waiting,) = (call for call in calls if not call.done())
    assert {call.code() for call in calls if call.done()} == {RESOURCE_EXHAUSTED}
    return waiting


def test_concurrency_limit_full_queue_refuses_more_calls(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(max_running_calls=2, max_waiting_calls=1, default_deadline_seconds=600)
    for session_id in ("s", "t", "u"):
        palaver.add(session_id, "hello", timeout=60)

    with locked(database_url, "s"), locked(database_url, "t"):
        running = [delete(palaver, "s"), delete(palaver, "t")]
        wait_until_blocked(database, 2)
        waiting = one_waits([delete(palaver, "u") for _ in range(5)])
        with refused(RESOURCE_EXHAUSTED) as refusal:
            palaver.get_session("s")
        assert health_of(palaver) == SERVING
        assert not any(call.done() for call in (*running, waiting))
        assert count_blocked(database) == 2

    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
    assert [call.result().messages_deleted for call in (*running, waiting)] == [1, 1, 1]


def test_concurrency_limit_waiting_call_takes_places_by_its_metadata(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=3)
    for session_id in ("s", "t"):
        palaver.add(session_id, "hello", timeout=60)
    large = [("x-large", "x" * METADATA_BYTES_PER_PLACE)]

    with locked(database_url):
        running = delete(palaver, "s")
        wait_until_blocked(database)
        waiting = one_waits([delete(palaver, "t", metadata=large) for _ in range(2)])
        small = one_waits([delete(palaver, "t") for _ in range(2)])

    assert running.result().messages_deleted == 1
    assert {waiting.code(), small.code()} == {grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND}


DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED


def test_concurrency_limit_cancelled_waiter_frees_its_place(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=1)
    for session_id in ("s", "t"):
        palaver.add(session_id, "hello", timeout=60)

    with locked(database_url):
        running = delete(palaver, "s")
        wait_until_blocked(database)
        one_waits([delete(palaver, "t") for _ in range(2)]).cancel()
        wait_until(lambda: delete(palaver, "t", timeout=0.5).code() is DEADLINE_EXCEEDED)

    assert running.result().messages_deleted == 1
    palaver.get_session("t")


def test_concurrency_limit_expired_waiter_never_runs(
    start_server: StartServer, database_url: str, database: Connection
) -> None:
    palaver = start_server(max_running_calls=1, default_deadline_seconds=0.5)
    for session_id in ("s", "t"):
        palaver.add(session_id, "hello", timeout=60)

    with locked(database_url):
        running = delete(palaver, "s", timeout=60)
        wait_until_blocked(database)
        assert delete(palaver, "t").code() is DEADLINE_EXCEEDED

    assert running.result().messages_deleted == 1
    palaver.get_session("t")


def read_when_there_is_room(palaver: Client, request: StreamMessagesRequest) -> int:
    """Open a stream as soon as the limit allows, and count its chunks."""
    chunks: list[StreamMessagesResponse] = []

    def read() -> bool:
        stream = palaver.memory.StreamMessages(request)
        chunks.extend(unless_refused(RESOURCE_EXHAUSTED, lambda: list(stream)) or ())
        return bool(chunks)

    wait_until(read)
    return len(chunks)


def test_concurrency_limit_of_streams_is_separate(
    start_server: StartServer,
) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=0, max_streams=1)
    for _ in range(20):  # more than gRPC buffers for a reader
        palaver.add("s", "x" * 1_000_000, timeout=60)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)
    stream = palaver.memory.StreamMessages(request)
    next(stream)

    with refused(RESOURCE_EXHAUSTED) as refusal, connected(palaver.address) as another:
        list(another.memory.StreamMessages(request))
    assert refusal.detail(RetryInfo).retry_delay.ToMilliseconds() > 0
    palaver.get_session("s")

    assert len(list(stream)) == 19
    assert read_when_there_is_room(palaver, request) == 20


def test_concurrency_limit_cancelled_stream_frees_its_place(start_server: StartServer) -> None:
    palaver = start_server(max_streams=1)
    for _ in range(20):
        palaver.add("s", "x" * 1_000_000, timeout=60)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)
    stream = palaver.memory.StreamMessages(request)
    next(stream)

    stream.cancel()

    assert read_when_there_is_room(palaver, request) == 20
