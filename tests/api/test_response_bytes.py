"""Bytes in flight: responses that nobody reads share a budget, and leave room for others."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    StreamMessagesRequest,
)
from palaver_server.interceptors.response_bytes import largest_response
from tests.conftest import StartServer
from tests.support import contract
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, connected, refused, struct, wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS
from tests.support.http2 import DATA, Http2

DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED

# Room for three responses of 3 MB, and a quarter for small ones.
BUDGET = 16 * 1024 * 1024

GET_MEMORY = GetMemoryRequest(session_id="s")


@pytest.fixture
def readers() -> Iterator[ExitStack]:
    """The connections of clients that do not read, closed after the test."""
    with ExitStack() as stack:
        yield stack


def add_memory(palaver: Client) -> None:
    """Add a session whose messages take 3 MB."""
    for _ in range(3):
        palaver.add("s", "x" * 1_000_000, timeout=MAX_WAIT_SECONDS)


def stall(readers: ExitStack, palaver: Client, key: str = "") -> Http2:
    """Start a call whose response is larger than the client's flow-control window."""
    reader = Http2(palaver.address)
    readers.callback(reader.close)
    metadata = {"authorization": f"Bearer {key}"} if key else {}
    reader.call("/palaver.v1.MemoryService/GetMemory", GET_MEMORY.SerializeToString(), metadata)
    assert any(frame.kind == DATA for frame in reader.received()), "the response is on its way"
    return reader


def get_memory(palaver: Client) -> Any:
    """Start to read the messages, and return the call."""
    return palaver.memory.GetMemory.future(GET_MEMORY, timeout=MAX_WAIT_SECONDS)


def test_response_bytes_full_budget_delays_response(
    start_server: StartServer, readers: ExitStack
) -> None:
    palaver = start_server(max_response_bytes_in_flight=BUDGET)
    add_memory(palaver)
    stalled = [stall(readers, palaver) for _ in range(3)]

    delayed = get_memory(palaver)
    palaver.get_session("s")
    assert not delayed.done()
    stalled[0].take(4_000_000)

    assert len(delayed.result().messages) == 3


@pytest.mark.slow
def test_response_bytes_full_budget_ends_call_at_its_deadline(
    start_server: StartServer, readers: ExitStack
) -> None:
    palaver = start_server(max_response_bytes_in_flight=BUDGET, default_deadline_seconds=1)
    add_memory(palaver)
    for _ in range(3):
        stall(readers, palaver)

    with refused(DEADLINE_EXCEEDED):
        palaver.memory.GetMemory(GET_MEMORY)
    with refused(DEADLINE_EXCEEDED):
        list(palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s")))


def test_response_bytes_abandoned_response_returns_its_bytes(
    start_server: StartServer, readers: ExitStack
) -> None:
    palaver = start_server(max_response_bytes_in_flight=BUDGET, stream_send_timeout_seconds=0.5)
    add_memory(palaver)
    for _ in range(9):
        stall(readers, palaver)

    assert len(get_memory(palaver).result().messages) == 3


def test_response_bytes_of_one_credential_leave_room_for_others(
    start_server: StartServer, keys_file: KeysFile, readers: ExitStack
) -> None:
    greedy_key, modest_key = keys_file.add(), keys_file.add()
    server = start_server(credentials=keys_file.path, max_response_bytes_in_flight=BUDGET)
    with caller(server.address, greedy_key) as greedy, caller(server.address, modest_key) as modest:
        add_memory(modest)
        stall(readers, server, greedy_key)

        delayed = get_memory(greedy)
        assert len(get_memory(modest).result().messages) == 3
        assert not delayed.done()
        delayed.cancel()


def test_response_bytes_streams_read_all_with_full_budget(
    start_server: StartServer, readers: ExitStack
) -> None:
    palaver = start_server(max_response_bytes_in_flight=BUDGET)
    add_memory(palaver)
    for _ in range(2):
        stall(readers, palaver)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)

    with connected(palaver.address) as other:
        streams = [client.memory.StreamMessages(request) for client in (palaver, other)]
        assert [len(list(stream)) for stream in streams] == [3, 3]
    wait_until(lambda: len(get_memory(palaver).result().messages) == 3)


METHODS = {method.name: method for method in contract.METHODS}

LONGEST_ID = 1024 * "i"

# Of metadata of 64 KiB as JSON, {"a":[1,1,...]} has the longest encoding.
LARGEST_METADATA = struct(a=(64 * 1024 - len('{"a":[]}')) // len("1,") * [1])


@pytest.mark.parametrize(
    "name",
    [name for name, method in METHODS.items() if name.startswith(("Get", "Delete", "Update"))],
)
def test_response_bytes_reserved_suffice_for_largest_resource(palaver: Client, name: str) -> None:
    texts = {"first_name": 256 * "😀", "last_name": 256 * "😀", "email": f"{312 * 'e'}@x.test"}
    palaver.add_user(LONGEST_ID, metadata=LARGEST_METADATA, **texts)
    palaver.add_session(LONGEST_ID, user_id=LONGEST_ID, metadata=LARGEST_METADATA)
    message = Message(
        message_id=LONGEST_ID, role=64 * "😀", content=1024 * 1024 * "x", metadata=LARGEST_METADATA
    )
    palaver.add_memory(LONGEST_ID, [message])
    ids = {"session_id": LONGEST_ID, "user_id": LONGEST_ID, "message_id": LONGEST_ID}
    request: Any = contract.request_about(METHODS[name], **ids)
    if name == "UpdateMessage":
        request.ClearField("content")  # which stays the largest
        request.role = message.role

    (response,) = contract.send(palaver.channel, METHODS[name], request)

    assert response.ByteSize() <= largest_response(METHODS[name])(request.SerializeToString())


@pytest.mark.parametrize("length", [0, 36, 1024])
def test_response_bytes_reserved_suffice_for_most_added_messages(
    palaver: Client, length: int
) -> None:
    def message(number: int) -> Message:
        message_id = f"{number:04}".ljust(length, "i") if length else ""
        return Message(message_id=message_id, role="user", content="x")

    request = AddMemoryRequest(session_id="s", messages=map(message, range(1000)))

    response = palaver.memory.AddMemory(request, timeout=MAX_WAIT_SECONDS)

    reserved = largest_response(METHODS["AddMemory"])(request.SerializeToString())
    assert response.ByteSize() <= reserved
