"""The memory that idle connections and streams cost a server."""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
import psutil

from bench.measurement import WrongAnswer
from bench.servers import Palaver
from bench.streams import all_sessions

CONNECTIONS = 1_000
STREAMS = 200

_CHUNK_SIZE = 100
_SECONDS_TO_SETTLE = 1.0
_KIBIBYTE = 1024

# Without this option, all channels of a process to one address share a connection.
_OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


def memory_per_connection(palaver: Palaver) -> float:
    """Open idle connections, and return the growth of the server's RSS per connection, in KiB."""
    return asyncio.run(_growth(palaver, connections=CONNECTIONS, streams=0)) / CONNECTIONS


def memory_per_stream(palaver: Palaver) -> float:
    """Open streams, read one chunk of each, and return the RSS growth per stream, in KiB."""
    return asyncio.run(_growth(palaver, connections=CONNECTIONS, streams=STREAMS)) / STREAMS


async def _growth(palaver: Palaver, *, connections: int, streams: int) -> float:
    """Open connections, then streams if any; return the RSS growth of the last step, in KiB."""
    process = psutil.Process(palaver.pid)
    channels = [
        grpc.aio.insecure_channel(palaver.address, options=_OPTIONS) for _ in range(connections + 1)
    ]
    try:
        await _read_first_chunk(channels[-1])  # the first call's imports and caches stay
        before = process.memory_info().rss
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        await asyncio.sleep(_SECONDS_TO_SETTLE)
        _check_connected(process, connections)
        if streams:
            before = process.memory_info().rss
            calls = await asyncio.gather(*map(_read_first_chunk, channels[:streams]))
            await asyncio.sleep(_SECONDS_TO_SETTLE)
            _check_open(calls)
        return (process.memory_info().rss - before) / _KIBIBYTE
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def _read_first_chunk(channel: grpc.aio.Channel) -> Any:
    stream = all_sessions(_CHUNK_SIZE)
    call: Any = channel.unary_stream(f"/{stream.method}")
    open_call = call(stream.request.SerializeToString())
    await open_call.read()
    return open_call


def _check_connected(process: psutil.Process, connections: int) -> None:
    established = [
        connection
        for connection in process.net_connections()
        if connection.status == psutil.CONN_ESTABLISHED
    ]
    if len(established) < connections:
        raise WrongAnswer(f"{len(established)} connections are open instead of {connections}")


def _check_open(calls: Sequence[Any]) -> None:
    ended = sum(call.done() for call in calls)
    if ended:
        raise WrongAnswer(f"{ended} streams ended before anybody read them")
