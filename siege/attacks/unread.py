"""Unread answers: the flow-control windows stay closed, and responses wait in the server."""

from google.protobuf.message import Message

from palaver.v1.memory_service_pb2 import GetMemoryRequest, StreamMessagesRequest
from siege import stock
from siege.attacker import Attacker, in_parallel

_CONNECTIONS = 20
_CALLS = 90


async def responses(attacker: Attacker) -> None:
    """Ask for large responses and never make room for them."""
    request = GetMemoryRequest(session_id=stock.LARGE_SESSION, last_n=1000)
    await _leave_unread(attacker, "MemoryService/GetMemory", request)


async def streams(attacker: Attacker) -> None:
    """Open streams of large chunks and never make room for the first."""
    request = StreamMessagesRequest(session_id=stock.LARGE_SESSION, chunk_size=1000)
    await _leave_unread(attacker, "MemoryService/StreamMessages", request)


async def _leave_unread(attacker: Attacker, method: str, request: Message) -> None:
    async def connect_and_call() -> None:
        wire = await attacker.connect(window=0)
        try:
            for _ in range(_CALLS):
                wire.call(method, request.SerializeToString())
            await wire.drop_everything()
        finally:
            wire.close()

    await in_parallel(_CONNECTIONS, connect_and_call)
