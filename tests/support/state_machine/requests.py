"""Strategies for requests. They use few ids, so that calls often meet the same objects."""

from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    ListMessagesRequest,
    MessageFilter,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.metadata_pb2 import MetadataMode
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_pb2 import UserFilter
from palaver.v1.user_service_pb2 import AddUserRequest, ListUsersRequest, UpdateUserRequest
from tests.support.model.contract import PATHS

NEWEST = "(the newest message)"

# The first ids are drawn more often, so that calls find something.
SESSION_IDS = ["s", "S", "🙂" * 256]
USER_IDS = ["u", "U", "nobody's"]
session_ids = st.sampled_from(["s", "s", "s", "s", "S", "S", "🙂" * 256])
user_ids = st.sampled_from(["", "u", "U"])
some_user_ids = st.sampled_from(["u", "u", "u", "U", "nobody's"])
MESSAGE_IDS = ["m0", "m1", "m 2'\"\\%"]
message_ids = st.sampled_from([*MESSAGE_IDS, NEWEST])
ROLES = ["user", "assistant", "system", "é" * 64]
roles = st.sampled_from(ROLES)
WORDS = ["hi", "four"]
contents = st.sampled_from(["", "hi", "ä🙂…", "\u2028\x01\ufffe", "四つ", "four"])
token_counts = st.sampled_from([0, 0, 1, 3, 2**31 - 1])
limits = st.sampled_from([0, 1, 2, 3, 1000])
sequences = st.sampled_from([0, 1, 2, 3, 4, 5, 2**63 - 1])

numbers = st.sampled_from([0.0, 1.0, 2.0, -0.0, -1.5, 0.1, 2.0**53 + 2, 1e22, 1e-7])
scalars = st.none() | st.booleans() | numbers | st.sampled_from(["", "pro", 'é\\"\u0001'])
keys = st.sampled_from(["plan", "n", "flag", "a", "b", ""])


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=2)


def _struct(fields: dict[str, Any]) -> Struct:
    struct = Struct()
    struct.update(fields)
    return struct


structs = st.dictionaries(keys, st.recursive(scalars, _nested, max_leaves=4), max_size=3).map(
    _struct
)
optional_structs = st.none() | structs
metadata_modes = st.sampled_from(MetadataMode.values())
times = st.none() | st.sampled_from(
    [Timestamp(), Timestamp(seconds=-1, nanos=999_999_999), Timestamp(seconds=2**33, nanos=1_999)]
)

payloads = st.sampled_from([b"", b"", b"\0\xff", b"payload"])
payload_types = st.sampled_from(["", "", "image/png"])

messages = st.builds(
    Message,
    message_id=st.sampled_from(["", *MESSAGE_IDS]),
    role=roles,
    content=contents,
    metadata=optional_structs,
    token_count=token_counts,
    created_at=times,
    payload=payloads,
    payload_type=payload_types,
    sequence=st.sampled_from([0, 99]),  # ignored
)

batches = st.lists(messages, min_size=1, max_size=4, unique_by=lambda m: m.message_id or id(m))

# Mostly none, so that most calls take place.
revisions = st.sampled_from([None] * 8 + [0, 1, 2, 3, 4])
last_sequences = st.sampled_from([None] * 8 + [0, 1, 2, 3])
rarely = st.sampled_from([False, False, True])

# Long enough that no session expires by itself.
HOUR = Duration(seconds=3600)
ttls = st.none() | st.sampled_from([Duration(), HOUR, Duration(seconds=10**9, nanos=1000)])

add_session = st.builds(
    AddSessionRequest,
    session_id=session_ids,
    user_id=user_ids,
    metadata=optional_structs,
    user_must_exist=rarely,
    created_at=times,
    ttl=ttls,
)
update_session = st.builds(
    UpdateSessionRequest,
    session_id=session_ids,
    metadata=optional_structs,
    metadata_mode=metadata_modes,
    user_id=st.none() | user_ids,
    expected_revision=revisions,
    allow_missing=rarely,
    undelete=rarely,
    ttl=ttls,
)
add_memory = st.builds(
    AddMemoryRequest,
    session_id=session_ids,
    messages=batches,
    user_id=st.none() | user_ids,
    expected_last_sequence=last_sequences,
    expected_revision=revisions,
    session_must_exist=rarely,
    session_metadata=optional_structs,
    session_metadata_mode=metadata_modes,
    user_metadata=st.none() | optional_structs,
    user_metadata_mode=metadata_modes,
    return_session=st.booleans(),
    replace_messages=rarely,
    ttl=ttls,
)

paths = st.sampled_from(["", *PATHS])
some_roles = st.lists(roles, max_size=2)
message_filters = st.none() | st.builds(MessageFilter, roles=some_roles, metadata=paths)
get_memory = st.builds(
    GetMemoryRequest,
    session_id=session_ids,
    last_n=st.sampled_from([0, 0, 1, 2, 1000, 2**31 - 1]),
    max_tokens=st.sampled_from([0, 0, 1, 2, 3, 2**31 - 1]),
    start_roles=some_roles,
    pinned_roles=some_roles,
    filter=message_filters,
    return_session=st.booleans(),
    total_count=st.booleans(),
    without_payload=rarely,
)
list_messages = st.builds(
    ListMessagesRequest,
    session_id=session_ids,
    limit=limits,
    cursor=sequences,
    filter=message_filters,
    without_payload=rarely,
)
stream_messages = st.builds(
    StreamMessagesRequest,
    session_id=session_ids,
    chunk_size=limits,
    cursor=sequences,
    filter=message_filters,
    without_payload=rarely,
)
reads = st.one_of(get_memory, list_messages, stream_messages)
update_message = st.builds(
    UpdateMessageRequest,
    session_id=session_ids,
    message_id=message_ids,
    role=st.none() | roles,
    content=st.none() | contents,
    token_count=st.none() | token_counts,
    metadata=optional_structs,
    metadata_mode=metadata_modes,
    expected_revision=revisions,
    payload=st.none() | payloads,
    payload_type=st.none() | payload_types,
    without_payload=rarely,
)
delete_messages = st.one_of(
    [
        st.builds(
            DeleteMessagesRequest,
            session_id=session_ids,
            expected_revision=revisions,
            expected_last_sequence=last_sequences,
            without_payload=rarely,
            **selection,
        )
        for selection in (
            {"message_ids": st.lists(message_ids, min_size=1, max_size=3)},
            {"first_n": st.integers(1, 3)},
            {"last_n": st.integers(1, 3)},
        )
    ]
)

emails = st.sampled_from(["", "ada@example.com", "ä" * 160])
names = st.sampled_from(["", "Ada", "🙂" * 256])
add_user = st.builds(
    AddUserRequest,
    user_id=some_user_ids,
    email=emails,
    first_name=names,
    last_name=names,
    metadata=optional_structs,
)
update_user = st.builds(
    UpdateUserRequest,
    user_id=some_user_ids,
    email=st.none() | emails,
    first_name=st.none() | names,
    last_name=st.none() | names,
    metadata=optional_structs,
    metadata_mode=metadata_modes,
    expected_revision=revisions,
    allow_missing=rarely,
)
list_users = st.builds(
    ListUsersRequest,
    limit=limits,
    newest_first=st.booleans(),
    filter=st.builds(
        UserFilter,
        user_id_prefix=st.sampled_from(["", "", "u", "nobody"]),
        user_ids=st.lists(st.sampled_from(USER_IDS), max_size=2),
        email=emails,
        metadata=paths,
    ),
)
purge_deleted = st.builds(
    PurgeDeletedRequest, older_than=st.sampled_from([Duration(), Duration(), HOUR, None])
)


list_sessions = st.builds(
    ListSessionsRequest,
    limit=limits,
    newest_first=st.booleans(),
    filter=st.builds(
        SessionFilter,
        user_id=user_ids,
        metadata=paths,
        session_id_prefix=st.sampled_from(["", "", "s", "🙂"]),
    ),
)
