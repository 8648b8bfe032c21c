"""Metadata of sessions and users that is larger than by default, as configured."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from palaver.v1.memory_pb2 import Message
from palaver_server.interceptors.response_bytes import largest_response
from tests.conftest import StartServer
from tests.support import contract
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused, struct, violations

MIB = 1024 * 1024
LARGEST = struct(a="x" * (MIB - len('{"a":""}')))
TOO_LARGE = struct(a="x" * (MIB - len('{"a":""}') + 1))
# Numbers: 2 bytes each as JSON, 11 encoded.
LARGEST_ENCODED = struct(a=[1] * (2 * MIB // 11 - 10))
TOO_LARGE_ENCODED = struct(a=[1] * (2 * MIB // 11 + 1))

BOTH = "must have at most 1048576 bytes as JSON and 2097152 bytes encoded"
METHODS = {method.name: method for method in contract.METHODS}


@pytest.fixture
def palaver(start_server: StartServer) -> Client:
    return start_server(max_metadata_bytes=MIB)


# Each call that sets the metadata of a session or a user.
WRITES: dict[str, Callable[[Client, Struct], Any]] = {
    "AddSession": lambda palaver, given: palaver.add_session("new", metadata=given),
    "UpdateSession": lambda palaver, given: palaver.update_session("s", metadata=given),
    "AddUser": lambda palaver, given: palaver.add_user("new", metadata=given),
    "UpdateUser": lambda palaver, given: palaver.update_user("u", metadata=given),
    "AddMemory of a session": lambda palaver, given: palaver.add(
        "s", "hello", session_metadata=given, return_session=True
    ),
    "AddMemory of a user": lambda palaver, given: palaver.add("s", "hello", user_metadata=given),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_large_metadata_is_accepted_up_to_both_limits(
    palaver: Client, write: Callable[[Client, Struct], Any]
) -> None:
    palaver.add_session("s", user_id="u")

    write(palaver, LARGEST_ENCODED)

    for too_large in (TOO_LARGE, TOO_LARGE_ENCODED):
        with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            write(palaver, too_large)
        assert BOTH in refusal.status.message


def test_large_metadata_of_patched_result_is_refused(palaver: Client) -> None:
    half = MIB // 2
    palaver.add_session("s", metadata=struct(a="x" * half))

    assert violations(lambda: palaver.update_session("s", metadata=struct(b="x" * half))) == [
        "metadata"
    ]


def test_large_metadata_of_messages_is_refused(palaver: Client) -> None:
    message = Message(message_id="m", role="user", metadata=struct(a="x" * 64 * 1024))

    assert violations(lambda: palaver.add_memory("s", [message])) == ["messages[0].metadata"]
    palaver.add_ids("s", "m")
    assert violations(lambda: palaver.update_message("s", "m", metadata=message.metadata)) == [
        "metadata"
    ]


@pytest.mark.parametrize("metadata", [LARGEST, LARGEST_ENCODED], ids=["json", "encoded"])
def test_large_metadata_fits_every_response(palaver: Client, metadata: Struct) -> None:
    for session_id in ("s", "t"):
        palaver.add_session(session_id, user_id="u", metadata=metadata)
    palaver.update_user("u", metadata=metadata)
    for _ in range(4):
        palaver.add("s", "x" * MIB)

    assert palaver.get_session("s").metadata == metadata
    assert palaver.get_user("u").metadata == metadata
    pages = [palaver.list_sessions(), palaver.list_sessions(limit=1)]
    memories = [palaver.get_memory("s"), palaver.get_memory("s", return_session=True)]
    for memory in memories:
        assert memory.has_more
        assert 1 <= len(memory.messages) <= 2
        assert metadata in (memory.metadata, memory.session.metadata)
    added = palaver.add("s", "x" * 1024, return_session=True)
    for response in (*pages, *memories, added):
        assert response.ByteSize() <= MAX_RESPONSE_BYTES


def test_large_metadata_leaves_out_a_message_that_does_not_fit_next_to_it(palaver: Client) -> None:
    palaver.add_session("s", metadata=LARGEST)
    palaver.add_memory("s", [Message(role="user", payload=bytes(3 * MIB))])
    palaver.add_memory("t", [Message(role="user", payload=bytes(3 * MIB))])

    memory = palaver.get_memory("s")

    assert (list(memory.messages), memory.has_more) == ([], True)
    assert len(palaver.get_memory("s", without_payload=True).messages) == 1
    assert len(palaver.get_memory("t").messages) == 1


def test_response_bytes_reserved_suffice_for_large_metadata(palaver: Client) -> None:
    palaver.add_session("s", user_id="u", metadata=LARGEST_ENCODED)
    palaver.update_user("u", metadata=LARGEST_ENCODED)
    ids = {"session_id": "s", "user_id": "u"}
    for name in ("GetSession", "GetUser"):
        request: Any = contract.request_about(METHODS[name], **ids)
        (response,) = contract.send(palaver.channel, METHODS[name], request)
        reserved = largest_response(METHODS[name], MIB)(request.SerializeToString())
        assert response.ByteSize() <= reserved
