"""Encoding of the window of a session."""

from itertools import chain

from palaver.v1.memory_pb2 import Memory
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.messages import with_messages
from palaver_server.services.encoding.sessions import encode_session
from palaver_server.store.memory import MemoryRow

_METADATA = wire.tag(Memory, "metadata")
_SESSION = wire.tag(Memory, "session")


def memory_response(session_id: str, memory: MemoryRow) -> Encoded[Memory]:
    """Return the response that is the window of a session."""
    response: Encoded[Memory] = with_messages(
        Memory(
            session_id=session_id,
            has_more=memory.messages.has_more,
            total_count=memory.total_count,
        ),
        memory.messages.rows,
    )
    session = map(_encode_session, (memory,))
    if response.data is None:
        return Encoded(None, chain(session, response.parts))
    return Encoded.of(chain(session, (response.data,)), metadata_bytes=len(memory.metadata))


def _encode_session(memory: MemoryRow) -> bytes:
    if memory.session is None:
        return wire.delimited(_METADATA, wire.json_struct(memory.metadata))
    return wire.delimited(_SESSION, encode_session(memory.session))
