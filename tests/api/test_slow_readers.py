"""Slow readers: a stream whose client does not read holds one chunk, and is ended."""

from typing import cast

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, ListAllSessionsRequest
from tests.conftest import StartServer
from tests.support.client import Client, connected, refused, struct, wait_until
from tests.support.http2 import DATA, END_STREAM, HEADERS, Http2
from tests.support.locks import locked

pytestmark = pytest.mark.slow

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED

MESSAGES = StreamMessagesRequest(session_id="s", chunk_size=1)


def add_messages(palaver: Client) -> None:
    """Add a session whose stream is longer than what gRPC and TCP buffer."""
    for _ in range(20):
        palaver.add("s", "x" * 1_000_000, timeout=60)


def exceed_send_timeout(palaver: Client, database_url: str) -> None:
    """Wait for two default deadlines: longer than the stream send timeout, shorter than two."""
    with locked(database_url):
        for _ in range(2):
            with refused(DEADLINE_EXCEEDED):
                palaver.add("s", "late")


def test_slow_reader_is_dropped_with_resume_cursor(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(stream_send_timeout_seconds=2, default_deadline_seconds=1.2)
    add_messages(palaver)
    stream = palaver.memory.StreamMessages(MESSAGES)
    received = [next(stream)]

    exceed_send_timeout(palaver, database_url)
    with refused(DEADLINE_EXCEEDED) as refusal:
        received.extend(stream)

    info = refusal.detail(ErrorInfo)
    assert info.reason == "READER_TOO_SLOW"
    assert int(info.metadata["next_cursor"]) == received[-1].next_cursor == len(received) < 20
    rest = StreamMessagesRequest(session_id="s", cursor=int(info.metadata["next_cursor"]))
    resumed = [m for chunk in palaver.memory.StreamMessages(rest) for m in chunk.messages]
    assert [message.sequence for message in resumed] == list(range(len(received) + 1, 21))


def test_slow_reader_of_no_chunk_is_dropped_with_resume_cursor(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(stream_send_timeout_seconds=2, default_deadline_seconds=1.2)
    add_messages(palaver)
    reader = Http2(palaver.address)
    reader.call("/palaver.v1.MemoryService/StreamMessages", MESSAGES.SerializeToString())
    frames = reader.received()
    assert next(frame for frame in frames if frame.kind == DATA)

    exceed_send_timeout(palaver, database_url)
    reader.take(2_000_000)
    trailers = next(f for f in frames if f.kind == HEADERS and f.flags & END_STREAM)

    assert b"grpc-status\x014" in trailers.payload  # a length of 1, and DEADLINE_EXCEEDED
    reader.close()


def test_slow_reader_of_session_listing_is_dropped_with_resume_cursor(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(stream_send_timeout_seconds=2, default_deadline_seconds=1.2)
    palaver.add("s", "locked", timeout=60)
    for number in range(200):
        metadata = struct(text="x" * 60_000)
        request = AddSessionRequest(session_id=f"{number}", metadata=metadata)
        palaver.sessions.AddSession(request, timeout=60)
    stream = palaver.sessions.ListAllSessions(ListAllSessionsRequest(chunk_size=10))
    received = [next(stream)]

    exceed_send_timeout(palaver, database_url)
    with refused(DEADLINE_EXCEEDED) as refusal:
        received.extend(stream)

    assert refusal.detail(ErrorInfo).metadata["next_cursor"] == str(received[-1].next_cursor)


def test_slow_reader_taking_each_chunk_in_time_gets_all(
    start_server: StartServer, database_url: str
) -> None:
    palaver = start_server(stream_send_timeout_seconds=1.5, default_deadline_seconds=0.3)
    add_messages(palaver)

    received = 0
    for _ in palaver.memory.StreamMessages(MESSAGES):
        received += 1
        if received % 2 == 0:
            with locked(database_url), refused(DEADLINE_EXCEEDED):
                palaver.add("s", "late")

    assert received == 20


def is_read(address: str) -> bool:
    """Tell whether the limit leaves room for another client's stream."""
    with connected(address) as other:
        try:
            return len(list(other.memory.StreamMessages(MESSAGES))) == 20
        except grpc.RpcError as error:
            call = cast("grpc.Call", error)
            assert call.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            return False


def test_slow_reader_dropped_frees_its_place(
    start_server: StartServer,
) -> None:
    palaver = start_server(max_streams=1, stream_send_timeout_seconds=0.2)
    add_messages(palaver)
    stream = palaver.memory.StreamMessages(MESSAGES)
    next(stream)

    wait_until(lambda: is_read(palaver.address))
    assert stream.is_active(), "the reader learns of it whenever it reads"
