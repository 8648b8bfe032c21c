"""Readers of streams.

They keep the chunks as bytes, and parse them after the measurement: ghz would spend more CPU
time on parsing them than the server does on creating them.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import psutil

from bench.measurement import Round
from bench.servers import Palaver
from palaver.v1 import memory_service_pb2, session_service_pb2

CHUNK_SIZE = 1_000

_SLOW_CHUNK_SIZE = 100
_SECONDS_BETWEEN_SLOW_READS = 0.02
_SECONDS_OF_PAUSE = 2.0
_MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Stream:
    """A streaming RPC.

    Args:
        method: Its full name.
        request: The request.
        rows: Parses a chunk, and returns its rows.
    """

    method: str
    request: Any
    rows: Callable[[bytes], Any]

    def chunks(self, channel: grpc.Channel) -> Iterator[bytes]:
        """Call the method, and yield the chunks as they arrive."""
        call: grpc.UnaryStreamMultiCallable[Any, bytes] = channel.unary_stream(
            f"/{self.method}", type(self.request).SerializeToString, response_deserializer=None
        )
        yield from call(self.request)


def all_sessions(chunk_size: int = CHUNK_SIZE) -> Stream:
    """Return the stream of all sessions."""
    return Stream(
        "palaver.v1.SessionService/ListAllSessions",
        session_service_pb2.ListAllSessionsRequest(chunk_size=chunk_size),
        lambda chunk: session_service_pb2.ListAllSessionsResponse.FromString(chunk).sessions,
    )


def messages_of(session_id: str) -> Stream:
    """Return the stream of all messages of a session."""
    return Stream(
        "palaver.v1.MemoryService/StreamMessages",
        memory_service_pb2.StreamMessagesRequest(session_id=session_id, chunk_size=CHUNK_SIZE),
        lambda chunk: memory_service_pb2.StreamMessagesResponse.FromString(chunk).messages,
    )


def read(stream: Stream, palaver: Palaver, *, seconds: float) -> Round:
    """Read a stream to its end repeatedly for some seconds; a chunk counts as a call."""
    chunks: list[bytes] = []
    times: list[float] = []
    with grpc.insecure_channel(palaver.address) as channel:
        grpc.channel_ready_future(channel).result()
        last = time.perf_counter()
        end = last + seconds
        while not chunks or last < end:
            for chunk in stream.chunks(channel):
                chunks.append(chunk)
                now = time.perf_counter()
                times.append(now - last)
                last = now
    return Round.of(sum(len(stream.rows(chunk)) for chunk in chunks), times)


def growth_with_slow_reader(palaver: Palaver) -> float:
    """Stream all sessions to a reader that sleeps between chunks, longest after the first.

    Returns:
        The maximum growth of the server's RSS, in MiB.
    """
    process = psutil.Process(palaver.pid)
    with grpc.insecure_channel(palaver.address) as channel:
        next(
            all_sessions(_SLOW_CHUNK_SIZE).chunks(channel)
        )  # the first call's imports and caches stay
        before = most = process.memory_info().rss
        for number, _ in enumerate(all_sessions(_SLOW_CHUNK_SIZE).chunks(channel)):
            time.sleep(_SECONDS_BETWEEN_SLOW_READS if number else _SECONDS_OF_PAUSE)
            most = max(most, process.memory_info().rss)
    return (most - before) / _MEBIBYTE
