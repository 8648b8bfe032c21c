"""Large requests and responses: refused before they are parsed, or processed in a thread."""

import gc
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.interceptors.large_requests import LargeRequest
from palaver_server.offload import MAX_PARSED_BYTES
from tests.api.test_malformed_requests import send
from tests.conftest import Run, StartServer
from tests.support.callers import caller
from tests.support.client import Client, refused, struct, wait_until
from tests.support.loop_holds import longest_hold
from tests.support.searching import search

MIB = 1024 * 1024

# Ten times what the server promises. Without the limits and the thread, each of the requests and
# responses here holds the loop for longer than that.
MAX_HOLD_SECONDS = 0.5

MESSAGES, METADATA, MESSAGE_IDS, FILTER = b"\x12", b"\x12", b"\x12", b"\x32"


def with_size(content: bytes) -> bytes:
    """Encode the length of a field of 16 KiB to 256 MiB, and its content."""
    size = len(content)
    return bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21)) + (
        content
    )


def list_of(item: bytes, count: int) -> bytes:
    """Encode metadata with a list of values."""
    values = with_size((b"\x0a" + bytes([len(item)]) + item) * count)
    return b"\x0a" + with_size(b"\x0a\x01a\x12" + with_size(b"\x32" + values))


EMPTY_LIST = b"\x32\x00"
EMPTY_OBJECT = b"\x2a\x00"


def requests_in_memory(run: Run) -> int:
    """Count the large requests that were decoded and are not freed."""

    async def count() -> int:
        return sum(isinstance(one, LargeRequest) for one in gc.get_objects())

    return run(count())


def test_large_requests_that_fail_are_freed_at_once(palaver: Client, run: Run) -> None:
    request = AddMemoryRequest(
        session_id="s",
        messages=[Message(role="user", content="x" * MAX_PARSED_BYTES)] * 2,
        expected_last_sequence=7,
    )
    gc.disable()
    try:
        for _ in range(3):
            with refused(grpc.StatusCode.ABORTED):
                palaver.memory.AddMemory(request)
        wait_until(lambda: requests_in_memory(run) == 0)
    finally:
        gc.enable()


def call(palaver: Client, method: str, request: bytes, **options: Any) -> None:
    method_call: Any = palaver.channel.unary_unary(f"/palaver.v1.{method}")
    method_call(request, timeout=60, **options)


SESSION = b"\x0a\x01s"

OVER_A_LIMIT: dict[str, tuple[str, bytes, str]] = {
    "messages": ("MemoryService/AddMemory", SESSION + b"\x12\x00" * MIB, "messages"),
    "metadata of a message": (
        "MemoryService/AddMemory",
        SESSION + MESSAGES + with_size(b"\x22" + with_size(list_of(EMPTY_LIST, MIB))),
        "messages[0].metadata",
    ),
    "metadata of a session": (
        "SessionService/UpdateSession",
        SESSION + METADATA + with_size(list_of(EMPTY_OBJECT, MIB)),
        "metadata",
    ),
    "metadata in pieces": (
        "SessionService/UpdateSession",
        SESSION + (METADATA + with_size(list_of(EMPTY_LIST, 90_000))) * 12,
        "metadata",
    ),
    "ids": ("MemoryService/DeleteMessages", SESSION + b"\x12\x01a" * 5 * MIB, "message_ids"),
    "roles": (
        "MemoryService/SearchMemory",
        FILTER + with_size(b"\x0a\x01a" * 5 * MIB),
        "filter",
    ),
    "an id, repeated": ("MemoryService/AddMemory", b"\x0a\x00" * 7 * MIB, "request"),
    "fields of a message": (
        "MemoryService/AddMemory",
        SESSION + MESSAGES + with_size(b"\x0a\x00" * 7 * MIB),
        "messages[0]",
    ),
}


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip], ids=["plain", "gzip"])
@pytest.mark.parametrize(("method", "request_", "field"), OVER_A_LIMIT.values(), ids=OVER_A_LIMIT)
def test_large_request_over_a_limit_is_refused_unparsed(
    palaver: Client,
    run: Run,
    *,
    method: str,
    request_: bytes,
    field: str,
    compression: Any,
) -> None:
    with (
        longest_hold(run) as hold,
        refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal,
    ):
        call(palaver, method, request_, compression=compression)

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == field
    assert hold.seconds < MAX_HOLD_SECONDS


# Metadata of almost 64 KiB as JSON, in the form that takes longest.
LISTS = Struct.FromString(list_of(EMPTY_LIST, 21_000))


@pytest.mark.slow
def test_large_metadata_of_messages_holds_no_loop(palaver: Client, run: Run) -> None:
    with longest_hold(run) as hold:
        palaver.add_memory("s", [Message(role="user", metadata=LISTS) for _ in range(25)])
        listed = palaver.messages("s")
        deleted = palaver.delete_messages("s", last_n=25).messages

    assert hold.seconds < MAX_HOLD_SECONDS / 2
    assert [*deleted] == listed
    assert all(message.metadata == LISTS for message in listed)


@pytest.mark.slow
def test_large_metadata_of_users_holds_no_loop(palaver: Client, run: Run) -> None:
    for number in range(15):
        palaver.add_user(f"u{number}", metadata=LISTS)

    with longest_hold(run) as hold:
        users = palaver.list_users(limit=1000).users

    assert hold.seconds < MAX_HOLD_SECONDS / 5
    assert all(user.metadata == LISTS for user in users)


def test_large_request_with_all_fields_is_stored(palaver: Client) -> None:
    messages = [
        Message(
            message_id=f"m{number}", role="user", content="x" * 1000, token_count=number,
            metadata=struct(number=number),
        )
        for number in range(1000)
    ]  # fmt: skip

    palaver.add_memory("s", messages, user_id="u", expected_last_sequence=0)

    stored = palaver.list_messages("s", limit=1000).messages
    assert [
        Message(
            message_id=message.message_id, role=message.role, content=message.content,
            token_count=message.token_count, metadata=message.metadata,
        )
        for message in stored
    ] == messages  # fmt: skip
    assert palaver.get_session("s").user_id == "u"


TRUNCATED = b"\x0a" + with_size(b"s" * 200_000)[:-1]
GROUP = b"\x0b" + b"\x10\x01" * 100_000 + b"\x0c"
BAD_UTF8_IN_A_MESSAGE = (
    SESSION
    + b"\x12\x03\x12\x01\xff"
    + b"\x12\x00" * 10
    + b"\xa2\x06"
    + (with_size(b"unknown" * 40_000))
)


@pytest.mark.parametrize("request_", [TRUNCATED, GROUP, BAD_UTF8_IN_A_MESSAGE])
def test_large_request_malformed_is_refused(palaver: Client, request_: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        call(palaver, "MemoryService/AddMemory", request_)

    assert [v.field for v in refusal.detail(BadRequest).field_violations] == ["request"]


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("/grpc.health.v1.Health/Check", "unary_unary"),
        ("/grpc.health.v1.Health/Watch", "unary_stream"),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "stream_stream"),
    ],
)
def test_large_request_of_grpc_is_refused(palaver: Client, method: str, kind: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        send(palaver.channel, method, kind, b"\x0a" + with_size(b"x" * MIB))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.description == "must have at most 4096 bytes; got 1048581"


@pytest.mark.slow
def test_search_of_long_contents_holds_no_loop(palaver: Client, run: Run) -> None:
    long = "cat " * 16_000
    distinct = [" ".join(f"w{n}" for n in range(a, a + 5000)) for a in range(0, 5000, 500)]
    palaver.add_memory("s", [Message(role="user", content=long) for _ in range(20)])
    palaver.add_memory("s", [Message(role="user", content=f"cat {text}") for text in distinct])

    with longest_hold(run) as hold:
        response = search(palaver, "cat", session_id="s", limit=100)
        diverse = search(palaver, "cat", session_id="s", limit=100, diversity=0.5)

    assert hold.seconds < MAX_HOLD_SECONDS / 5
    assert len(response.results) == len(diverse.results) == 30
    assert all("**cat**" in result.snippet for result in response.results)


def test_search_with_diversity_tells_long_alike_contents_from_others(palaver: Client) -> None:
    first = " ".join(f"a{n}" for n in range(2000))
    second = " ".join(f"b{n}" for n in range(2000))
    contents = [f"cat {first} one", f"cat {first} two", f"cat {second} one", f"cat {second} two"]
    palaver.add_memory("s", [Message(role="user", content=content) for content in contents])

    results = search(palaver, "cat", session_id="s", limit=2, diversity=0.9).results

    assert {result.message.content[4] for result in results} == {"a", "b"}


def test_search_with_thousands_of_unspaced_words_holds_no_loop(palaver: Client, run: Run) -> None:
    text = "".join(chr(0x4E00 + n) for n in range(4000))
    content = f"{text[:50]} " + (text[-1] * 500 + " ") * 100
    palaver.add_memory("s", [Message(role="user", content=content)])

    with longest_hold(run) as hold:
        (result,) = search(palaver, text, session_id="s").results

    assert hold.seconds < MAX_HOLD_SECONDS / 5
    assert result.snippet.startswith(f"**{text[:33]}")


def test_large_requests_of_one_connection_are_paced(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palaver_server.interceptors.request_bytes._BYTES_PER_SECOND", 1)
    palaver = start_server(max_request_bytes_in_flight=64 * MIB)
    with caller(palaver.address) as other:
        other.add("t", "x" * 20_000)

        with pytest.raises(grpc.RpcError) as raised:
            other.sessions.GetSession(GetSessionRequest(session_id="t"), timeout=1)

        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert palaver.get_session("t").last_sequence == 1
