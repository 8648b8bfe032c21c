"""Floods: more calls, streams, connections and unfinished requests than anyone needs."""

import asyncio
import itertools

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import GetSessionRequest
from siege import stock
from siege.attacker import Attacker, in_parallel

_CHANNELS = 4
_CALLS = 1000
_STREAMS = 600
_CONNECTIONS = 2000

# Those that send nothing, the length of a message, and half of a message.
_SENT_BYTES = (0, 5, 7)
_UNFINISHED_CONNECTIONS = 50
_UNFINISHED_CALLS = 90


async def nothing(_: Attacker) -> None:
    """Do nothing, so that the callers are measured without an attack."""
    await asyncio.Event().wait()


async def calls(attacker: Attacker) -> None:
    """Make cheap calls, many at a time."""
    request = GetSessionRequest(session_id=stock.LARGE_SESSION).SerializeToString()
    async with attacker.channels(_CHANNELS) as channels:
        turns = itertools.cycle(channels)
        await in_parallel(
            _CALLS, lambda: attacker.call(next(turns), "SessionService/GetSession", request)
        )


async def streams(attacker: Attacker) -> None:
    """Open streams, and read a chunk of each."""
    request = StreamMessagesRequest(session_id=stock.LARGE_SESSION, chunk_size=1)
    async with attacker.channels(_CHANNELS) as channels:
        turns = itertools.cycle(channels)
        await in_parallel(
            _STREAMS, lambda: attacker.stall(next(turns), "MemoryService/StreamMessages", request)
        )


async def connections(attacker: Attacker) -> None:
    """Open connections without calls."""

    async def connect() -> None:
        attacker.outcomes["started"] += 1
        wire = await attacker.connect()
        attacker.outcomes["connected"] += 1
        try:
            await wire.drop_everything()
        finally:
            wire.close()

    await in_parallel(_CONNECTIONS, connect)


async def unfinished_requests(attacker: Attacker) -> None:
    """Start calls whose requests stop before, at the beginning of, or within a message."""
    request = GetSessionRequest(session_id=stock.LARGE_SESSION).SerializeToString()

    async def connect_and_start() -> None:
        wire = await attacker.connect()
        try:
            for sent in itertools.islice(itertools.cycle(_SENT_BYTES), _UNFINISHED_CALLS):
                wire.call("SessionService/GetSession", request, sent=sent)
            await wire.drop_everything()
        finally:
            wire.close()

    await in_parallel(_UNFINISHED_CONNECTIONS, connect_and_start)
