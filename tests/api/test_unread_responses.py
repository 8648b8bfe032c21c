"""Responses with one message that the client does not read: they keep their slot, for a while."""

import grpc
import pytest

from palaver.v1.memory_service_pb2 import GetMemoryRequest, StreamMessagesRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import unless_refused
from tests.support.http2 import DATA, HEADERS, RST_STREAM, Http2

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

GET_MEMORY = ("/palaver.v1.MemoryService/GetMemory", GetMemoryRequest(session_id="s"))
STREAM_MESSAGES = (
    "/palaver.v1.MemoryService/StreamMessages",
    StreamMessagesRequest(session_id="s"),
)


def unread(palaver: Client, call: tuple[str, GetMemoryRequest | StreamMessagesRequest]) -> Http2:
    """Start a call on a connection whose flow-control window is too small for the response."""
    method, request = call
    reader = Http2(palaver.address)
    reader.call(method, request.SerializeToString())
    assert any(frame.kind == DATA for frame in reader.received()), "the response is on its way"
    return reader


def can_call(palaver: Client) -> bool:
    """Return whether there is a slot for a call."""
    return unless_refused(RESOURCE_EXHAUSTED, lambda: palaver.get_session("s")) is not None


def test_unread_response_keeps_slot_until_it_is_read(start_server: StartServer) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=0)
    for _ in range(3):
        palaver.add("s", "x" * 1_000_000, timeout=60)

    reader = unread(palaver, GET_MEMORY)
    with refused(RESOURCE_EXHAUSTED):
        palaver.get_session("s")
    reader.take(4_000_000)

    wait_until(lambda: can_call(palaver))
    reader.close()


def test_unread_response_frees_slot_when_client_disconnects(start_server: StartServer) -> None:
    palaver = start_server(max_running_calls=1, max_waiting_calls=0)
    for _ in range(3):
        palaver.add("s", "x" * 1_000_000, timeout=60)

    unread(palaver, GET_MEMORY).close()

    wait_until(lambda: can_call(palaver))


@pytest.mark.parametrize("call", [GET_MEMORY, STREAM_MESSAGES], ids=["unary", "stream"])
def test_unread_response_is_reset_after_send_timeout(
    start_server: StartServer, call: tuple[str, GetMemoryRequest | StreamMessagesRequest]
) -> None:
    palaver = start_server(
        max_running_calls=1, max_waiting_calls=0, max_streams=1, stream_send_timeout_seconds=0.2
    )
    for _ in range(3):
        palaver.add("s", "x" * 1_000_000, timeout=60)

    reader = unread(palaver, call)

    wait_until(lambda: can_call(palaver))
    # The reset frees the memory: without it, the status would wait behind the response.
    frames = iter(reader.received())
    status = next(frame.payload for frame in frames if frame.kind == HEADERS)
    assert b"grpc-status\x011" in status  # a length of 1, and CANCELLED
    assert next(frames).kind == RST_STREAM
    reader.close()
