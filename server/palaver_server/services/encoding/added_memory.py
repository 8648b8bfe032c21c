"""Encoding of the response of AddMemory."""

from palaver.v1.memory_service_pb2 import AddedMessage as AddedMessageProto
from palaver.v1.memory_service_pb2 import AddMemoryResponse
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.sessions import encode_session
from palaver_server.services.encoding.wire import varint
from palaver_server.store.memory import AddedMemory, AddedMessage

_MESSAGES = wire.tag(AddMemoryResponse, "messages")
_MESSAGE_ID = wire.tag(AddedMessageProto, "message_id")
_SEQUENCE = wire.integer_tag(AddedMessageProto, "sequence")
_CREATED_AT = wire.tag(AddedMessageProto, "created_at")


def encode_added_message(row: AddedMessage) -> bytes:
    """Return the bytes of an item of `messages`."""
    message_id, sequence, created_at = row
    id_, created = message_id.encode(), wire.timestamp(created_at)
    message = b"".join(
        (
            _MESSAGE_ID, varint(len(id_)), id_,
            _SEQUENCE, varint(sequence),
            _CREATED_AT, varint(len(created)), created,
        )
    )  # fmt: skip
    return wire.delimited(_MESSAGES, message)


def added_memory_response(added: AddedMemory) -> Encoded[AddMemoryResponse]:
    """Return the response of AddMemory."""
    response = AddMemoryResponse(
        session_created=added.session_created,
        session_undeleted=added.session_undeleted,
        messages_deleted=added.messages_deleted,
    )
    if added.session is not None:
        response.session.ParseFromString(encode_session(added.session))
    messages = b"".join([encode_added_message(row) for row in added.messages])
    return Encoded(response.SerializeToString() + messages)
