"""Encoding of the window of a session."""

from palaver.v1.memory_pb2 import Memory
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.messages import with_messages
from palaver_server.services.encoding.metadata import struct_from_json
from palaver_server.services.encoding.sessions import encode_session
from palaver_server.store.memory import MemoryRow

_SESSION = wire.tag(Memory, "session")


def memory_response(session_id: str, memory: MemoryRow) -> Encoded[Memory]:
    """Return the response that is the window of a session."""
    response = Memory(
        session_id=session_id,
        has_more=memory.messages.has_more,
        total_count=memory.total_count,
    )
    if memory.session is None:
        response.metadata.CopyFrom(struct_from_json(memory.metadata))
    else:
        response.session.ParseFromString(encode_session(memory.session))
    return with_messages(response, memory.messages.rows)
