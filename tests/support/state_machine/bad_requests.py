"""Invalid requests, and the paths of their invalid fields."""

from collections.abc import Callable
from typing import Any, NamedTuple

from google.protobuf.message import Message as ProtobufMessage
from hypothesis import strategies as st

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest
from palaver.v1.session_service_pb2 import ListAllSessionsRequest, ListSessionsRequest
from palaver.v1.user_service_pb2 import ListAllUsersRequest, ListUsersRequest
from tests.support.state_machine import requests


class BadRequest(NamedTuple):
    """An invalid request, and the paths of its invalid fields."""

    request: ProtobufMessage
    fields: set[str]


Damage = Callable[[Any], object]

LONG = "x" * 1025
DAMAGES: dict[str, list[tuple[str, Damage]]] = {
    "session_id": [
        ("session_id", lambda r: setattr(r, "session_id", "")),
        ("session_id", lambda r: setattr(r, "session_id", LONG)),
    ],
    "user_id": [("user_id", lambda r: setattr(r, "user_id", "nul \0"))],
    "email": [("email", lambda r: setattr(r, "email", "ä" * 161))],
    "first_name": [("first_name", lambda r: setattr(r, "first_name", "x" * 257))],
    "last_name": [("last_name", lambda r: setattr(r, "last_name", "\0"))],
    "message_id": [("message_id", lambda r: setattr(r, "message_id", ""))],
    "metadata": [("metadata", lambda r: r.metadata.update({"a": float("nan")}))],
    "limit": [("limit", lambda r: setattr(r, "limit", 1001))],
    "chunk_size": [("chunk_size", lambda r: setattr(r, "chunk_size", -1))],
    "cursor": [("cursor", lambda r: setattr(r, "cursor", -1))],
    "filter": [
        ("filter.metadata", lambda r: setattr(r.filter, "metadata", "$." + "x" * 4095)),
        ("filter.created_after", lambda r: setattr(r.filter.created_after, "nanos", -1)),
    ],
    "role": [("role", lambda r: setattr(r, "role", ""))],
    "content": [("content", lambda r: setattr(r, "content", "\0"))],
    "payload": [("payload", lambda r: setattr(r, "payload", bytes(3 * 2**20 + 1)))],
    "payload_type": [("payload_type", lambda r: setattr(r, "payload_type", "é"))],
    "token_count": [("token_count", lambda r: setattr(r, "token_count", -1))],
    "expected_last_sequence": [
        ("expected_last_sequence", lambda r: setattr(r, "expected_last_sequence", -1))
    ],
    "start_roles": [("start_roles[0]", lambda r: r.start_roles.insert(0, ""))],
    "pinned_roles": [("pinned_roles[0]", lambda r: r.pinned_roles.insert(0, "x" * 65))],
    "metadata_mode": [("metadata_mode", lambda r: setattr(r, "metadata_mode", 9))],
    "expected_revision": [("expected_revision", lambda r: setattr(r, "expected_revision", -1))],
    "created_at": [("created_at", lambda r: setattr(r.created_at, "nanos", -1))],
    "first_n": [("first_n", lambda r: setattr(r, "first_n", 1001))],
    "max_tokens": [("max_tokens", lambda r: setattr(r, "max_tokens", -1))],
    "older_than": [("older_than", lambda r: setattr(r.older_than, "seconds", -1))],
    "message_ids": [("message_ids[0]", lambda r: r.message_ids.insert(0, ""))],
    "messages": [
        ("messages[0].role", lambda r: setattr(r.messages[0], "role", "x" * 65)),
        ("messages[0].created_at", lambda r: setattr(r.messages[0].created_at, "seconds", 2**40)),
        ("messages[1].message_id", lambda r: r.messages.insert(1, _twin(r.messages[0]))),
    ],
}


def _twin(message: Message) -> Message:
    message.message_id = "twin"
    return Message(message_id="twin", role="user")


VALID = st.one_of(
    requests.add_session,
    requests.update_session,
    st.builds(ListSessionsRequest),
    st.builds(ListAllSessionsRequest),
    requests.add_memory,
    requests.get_memory,
    requests.list_messages,
    requests.stream_messages,
    requests.update_message,
    requests.delete_messages,
    requests.add_user,
    requests.update_user,
    requests.list_users,
    st.builds(ListAllUsersRequest),
    requests.purge_deleted,
)


def set_field(request: DeleteMessagesRequest) -> str:
    """Return the field that selects the messages."""
    return next(name for name in ("message_ids", "first_n", "last_n") if getattr(request, name))


@st.composite
def bad_requests(draw: st.DrawFn) -> BadRequest:
    """Draw a valid request, and make some of its fields invalid."""
    request = draw(VALID)
    names = {field.name for field in request.DESCRIPTOR.fields}
    if isinstance(request, DeleteMessagesRequest):  # only one of them may be given
        names -= {"message_ids", "first_n", "last_n"} - {set_field(request)}
    damages = [damage for name in sorted(names) for damage in DAMAGES.get(name, [])]
    if isinstance(request, ListUsersRequest | ListAllUsersRequest):
        damages = [damage for damage in damages if damage[0] != "filter.created_after"]
    chosen = draw(
        st.lists(st.sampled_from(damages), min_size=1, max_size=3, unique_by=lambda d: d[0])
    )
    # A request of more than 128 KiB is refused for the first size over its limit alone.
    chosen = [each for each in chosen if each[0] == "payload"] or chosen
    for _, damage in chosen:
        damage(request)
    return BadRequest(request, {path for path, _ in chosen})
