"""The attacker's own data, which make its calls expensive."""

import uuid

from google.protobuf.struct_pb2 import Struct
from grpc.aio import Channel

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import AddSessionRequest
from siege.attacker import Attacker

LARGE_SESSION = "siege"

# A word in every message of the large session.
WORD = "besieged"

# About 4 MiB, the most that a response of messages may have.
_MESSAGES = 900
_FILLER = f"{WORD} walls " * 300

_SESSIONS = 100
_VALUES = 100


def unique_word() -> str:
    """Return a word that no other message begins with, since the ledger counts first words."""
    return uuid.uuid4().hex


async def put_in_stock(attacker: Attacker) -> None:
    """Add the data.

    Raises:
        RuntimeError: The server did not accept some of them.
    """
    async with attacker.channels(1) as (channel,):
        for _ in range(_MESSAGES // 100):
            messages = [
                Message(role="user", content=f"{unique_word()} {_FILLER}", metadata=_metadata())
                for _ in range(100)
            ]
            request = AddMemoryRequest(session_id=LARGE_SESSION, messages=messages)
            await _call(attacker, channel, "MemoryService/AddMemory", request)
        for number in range(_SESSIONS):
            session = AddSessionRequest(session_id=f"siege-{number}", metadata=_metadata())
            await _call(attacker, channel, "SessionService/AddSession", session)


def _metadata() -> Struct:
    """Return metadata with many strings, which paths have to visit."""
    metadata = Struct()
    metadata.update({"values": [f"{'a' * 30}{number}" for number in range(_VALUES)]})
    return metadata


async def _call(
    attacker: Attacker, channel: Channel, method: str, request: AddMemoryRequest | AddSessionRequest
) -> None:
    if await attacker.call(channel, method, request) is None:
        raise RuntimeError(f"the attacker could not prepare: {method}: {attacker.outcomes}")
