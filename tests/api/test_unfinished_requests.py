"""Requests that never finish: they end at the default deadline, and leave room for others."""

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from threading import Event
from typing import Any

import grpc
import pytest

from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.interceptors.decoding import MAX_READS
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused
from tests.support.concurrency import MAX_WAIT_SECONDS
from tests.support.http2 import END_STREAM, HEADERS, Http2
from tests.support.watching import SERVING, health_of

GET_SESSION = "/palaver.v1.SessionService/GetSession"
CHECK_HEALTH = "/grpc.health.v1.Health/Check"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
STREAM_MESSAGES = "/palaver.v1.MemoryService/StreamMessages"
REQUEST = GetSessionRequest(session_id="s").SerializeToString()

# Room for two requests being read, one of them of one connection or credential.
BUDGET = 64 * 1024 * 1024

UNFINISHED = {"no message": 0, "the size of a message": 5, "half a message": 7}


def start_unfinished(connection: Http2, *, sent: int = 7, key: str = "", stream: int = 1) -> None:
    """Start a call, and send only some bytes of its request."""
    metadata = {"authorization": f"Bearer {key}"} if key else {}
    connection.call(GET_SESSION, REQUEST, metadata, stream=stream, sent=sent)


def ends(connection: Http2) -> Iterator[int]:
    """Yield the number of each stream that the server ends."""
    for frame in connection.received():
        if frame.kind == HEADERS and frame.flags & END_STREAM:
            yield frame.stream


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_unfinished_request_ends_at_default_deadline(start_server: StartServer, sent: int) -> None:
    palaver = start_server(default_deadline_seconds=0.3)

    with closing(Http2(palaver.address)) as connection:
        start_unfinished(connection, sent=sent)
        assert next(ends(connection)) == 1


@pytest.mark.parametrize(
    "method",
    [GET_SESSION, STREAM_MESSAGES, CHECK_HEALTH, REFLECT],
    ids=["unary", "stream", "health", "reflection"],
)
def test_unfinished_request_with_later_deadline_ends_at_default_deadline(
    start_server: StartServer, method: str
) -> None:
    palaver = start_server(default_deadline_seconds=0.3)
    never = Event()
    call: Any = palaver.channel.stream_stream(method)

    try:
        with refused(grpc.StatusCode.DEADLINE_EXCEEDED):
            list(call(iter(never.wait, None), timeout=MAX_WAIT_SECONDS))
    finally:
        never.set()


@pytest.mark.parametrize(
    "method",
    [GET_SESSION, STREAM_MESSAGES, CHECK_HEALTH],
    ids=["unary", "stream", "health"],
)
def test_unfinished_request_without_message_is_unimplemented(palaver: Client, method: str) -> None:
    call: Any = palaver.channel.stream_stream(method)

    with refused(grpc.StatusCode.UNIMPLEMENTED):
        list(call(iter(()), timeout=MAX_WAIT_SECONDS))


def test_unfinished_request_without_credential_ends_at_once(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    keys_file.add()
    palaver = start_server(credentials=keys_file.path, default_deadline_seconds=600)

    with closing(Http2(palaver.address)) as connection:
        start_unfinished(connection)
        assert next(ends(connection)) == 1


def test_unfinished_requests_of_one_connection_leave_room_for_others(
    start_server: StartServer,
) -> None:
    palaver = start_server(max_request_bytes_in_flight=BUDGET, default_deadline_seconds=600)
    palaver.add("s", "x")

    with closing(Http2(palaver.address)) as connection:
        for stream in (1, 3, 5):
            start_unfinished(connection, stream=stream)
        assert palaver.get_session("s").last_sequence == 1


def test_unfinished_requests_of_one_credential_leave_room_for_others(
    start_server: StartServer, keys_file: KeysFile
) -> None:
    greedy_key, modest_key = keys_file.add(), keys_file.add()
    server = start_server(
        credentials=keys_file.path, max_request_bytes_in_flight=BUDGET, default_deadline_seconds=600
    )

    with (
        closing(Http2(server.address)) as first,
        closing(Http2(server.address)) as second,
        caller(server.address, modest_key) as modest,
    ):
        for connection in (first, second):
            start_unfinished(connection, key=greedy_key)
        modest.add("s", "x")
        assert modest.get_session("s").last_sequence == 1


def test_unfinished_request_that_ends_lets_waiting_ones_be_read(start_server: StartServer) -> None:
    palaver = start_server(max_request_bytes_in_flight=BUDGET, default_deadline_seconds=600)

    with closing(Http2(palaver.address)) as connection:
        start_unfinished(connection, stream=1)
        connection.call(GET_SESSION, REQUEST, stream=3)
        connection.cancel(1)
        assert next(ends(connection)) == 3


def test_unfinished_requests_without_credential_leave_room_for_health_checks(
    start_server: StartServer,
) -> None:
    palaver = start_server(default_deadline_seconds=600)
    count = 10

    with closing(Http2(palaver.address)) as connection:
        for number in range(count):
            connection.call(CHECK_HEALTH, b"\x0a\x01s", stream=2 * number + 1, sent=6)
        assert health_of(palaver) == SERVING
        ended = set(islice(ends(connection), count - MAX_READS))
    assert ended <= set(range(1, 2 * count, 2))
