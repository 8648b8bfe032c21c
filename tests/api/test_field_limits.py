"""The limits of every field of every request, tested at the edge on both sides."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import grpc
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest
from grpc_status import rpc_status

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    MessageFilter,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.metadata_pb2 import MetadataMode
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    CountSessionsRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListAllUsersRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from tests.support import contract
from tests.support.client import Client, struct

MIB = 1024 * 1024
INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


class Values(NamedTuple):
    """Values that a field accepts, and values that it refuses."""

    good: list[Any]
    bad: list[Any]


def objects(levels: int) -> Struct:
    """Return nested objects."""
    inner: dict[str, Any] = {}
    for _ in range(levels - 1):
        inner = {"a": inner}
    return struct(**inner)


def lists(levels: int) -> Struct:
    """Return nested lists in an object."""
    inner: list[Any] = []
    for _ in range(levels - 2):
        inner = [inner]
    return struct(a=inner)


def of_no_kind() -> Struct:
    result = Struct()
    result.fields["a"].SetInParent()
    return result


ID = Values(
    good=["x", "x" * 1024, "é" * 512, "😀" * 256],
    bad=["", "x" * 1025, "é" * 512 + "x", "😀" * 257, "\0", "a\0b"],
)
OPTIONAL_ID = Values(good=["", *ID.good], bad=ID.bad[1:])
ROLE = Values(good=["x", "x" * 64, "😀" * 64], bad=["", "x" * 65, "😀" * 65, "a\0b"])
EMAIL = Values(
    good=["", "x", "x" * 320, "é" * 160, "😀" * 80],
    bad=["x" * 321, "é" * 160 + "x", "😀" * 81, "a\0b"],
)
NAME = Values(good=["", "x", "x" * 256, "😀" * 256], bad=["x" * 257, "😀" * 257, "a\0b"])
CONTENT = Values(
    good=["", "x" * MIB, "😀" * (MIB // 4)],
    bad=["x" * (MIB + 1), "😀" * (MIB // 4) + "x", "a\0b"],
)
PAYLOAD = Values(good=[b"", b"\0\xff", bytes(3 * MIB)], bad=[bytes(3 * MIB + 1)])
PAYLOAD_TYPE = Values(good=["", "x", "x" * 255], bad=["x" * 256, "é", "a\0b"])
METADATA = Values(
    good=[
        struct(a="x" * (64 * 1024 - 8)),  # and {"a":""}
        struct(a="😀" * (16 * 1024 - 2)),
        struct(a=[1] * (32 * 1024 - 4)),
        struct(**{"x" * (64 * 1024 - 6): 1}),
        objects(32),
        lists(32),
        struct(),
    ],
    bad=[
        struct(a="x" * (64 * 1024 - 7)),
        struct(a="😀" * (16 * 1024 - 2) + "x"),
        struct(a=[1] * (32 * 1024 - 3)),
        struct(**{"x" * (64 * 1024 - 5): 1}),
        objects(33),
        lists(33),
        *(struct(a=number) for number in (float("nan"), float("inf"), -float("inf"))),
        struct(a=[{"b": float("nan")}]),
        *(struct(**fields) for fields in ({"\0": 1}, {"a": "b\0"}, {"a": [{"b\0": 1}, "c"]})),
        of_no_kind(),
    ],
)

# Without keys that would stay next to those of the following values.
PATCH = Values([good for good in METADATA.good if set(good.fields) <= {"a"}], METADATA.bad)

LIMIT = Values(good=[0, 1, 1000], bad=[-1, 1001, INT32_MAX, -INT32_MAX])
COUNT_LIMIT = Values(good=[0, 1, 1_000_000], bad=[-1, 1_000_001, INT32_MAX, -INT32_MAX])
CURSOR = Values(good=[0, 1, INT64_MAX], bad=[-1, -INT64_MAX])
COUNT = Values(good=[0, 1, INT32_MAX], bad=[-1, -INT32_MAX])
TIME = Values(
    good=[
        Timestamp(),
        Timestamp(seconds=-62_135_596_800),  # year 1
        Timestamp(seconds=253_402_300_799, nanos=999_999_999),  # year 9999
    ],
    bad=[
        Timestamp(seconds=-62_135_596_801),
        Timestamp(seconds=253_402_300_800),
        Timestamp(nanos=-1),
        Timestamp(nanos=1_000_000_000),
        Timestamp(seconds=INT64_MAX),
        Timestamp(seconds=-INT64_MAX),
    ],
)
DURATION = Values(
    good=[Duration(seconds=315_576_000_000), Duration(nanos=999_999_999), Duration()],
    bad=[
        Duration(seconds=315_576_000_001),
        Duration(seconds=315_576_000_000, nanos=1),
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=INT64_MAX),
    ],
)
TTL = Values(
    good=[Duration(seconds=3_155_760_000), Duration(nanos=999_999_999), Duration()],
    bad=[
        Duration(seconds=3_155_760_001),
        Duration(seconds=3_155_760_000, nanos=1),
        Duration(seconds=-1),
        Duration(nanos=-1),
        Duration(nanos=1_000_000_000),
        Duration(seconds=INT64_MAX),
    ],
)
PATH = Values(
    good=["", "$.a == 1".ljust(4096), f'$.a == "{"é" * 2043}"'],
    bad=["$.a == 1".ljust(4097), f'$.a == "{"é" * 2044}"', "$.a\0 == 1"],
)
FIRST_N = Values(good=[1, 1000], bad=[-1, 1001])
ROLES = Values(good=[1, 100], bad=[101])
LAST_N = Values(good=[1, 1000], bad=[-1, 0, 1001])
MESSAGES = Values(good=[1, 1000], bad=[0, 1001])
IDS = Values(good=[1, 1000], bad=[1001])

KINDS = {
    "id": ID,
    "optional id": OPTIONAL_ID,
    "role": ROLE,
    "email": EMAIL,
    "name": NAME,
    "content": CONTENT,
    "payload": PAYLOAD,
    "payload type": PAYLOAD_TYPE,
    "metadata": METADATA,
    "patch": PATCH,
    "limit": LIMIT,
    "count limit": COUNT_LIMIT,
    "cursor": CURSOR,
    "count": COUNT,
    "time": TIME,
    "duration": DURATION,
    "path": PATH,
    "first_n": FIRST_N,
    "last_n": LAST_N,
    "roles": ROLES,
    "messages": MESSAGES,
    "ids": IDS,
}

S: dict[str, Any] = {"session_id": "s"}
U: dict[str, Any] = {"user_id": "u"}
MESSAGE = Message(role="user")

Build = Callable[[Any], ProtobufMessage]


def added(**fields: Any) -> AddMemoryRequest:
    return AddMemoryRequest(session_id="s", messages=[Message(**{"role": "user", **fields})])


def updated(**fields: Any) -> UpdateMessageRequest:
    return UpdateMessageRequest(session_id="s", message_id="m", **fields)


def filtered(**fields: Any) -> ListSessionsRequest:
    return ListSessionsRequest(filter=SessionFilter(**fields))


def all_filtered(**fields: Any) -> ListAllSessionsRequest:
    return ListAllSessionsRequest(filter=SessionFilter(**fields))


def filtered_messages(**fields: Any) -> list[ProtobufMessage]:
    """Return the requests with a filter of messages."""
    passing = MessageFilter(**fields)
    kinds: Any = (GetMemoryRequest, ListMessagesRequest, StreamMessagesRequest)
    return [kind(session_id="s", filter=passing) for kind in kinds]


MESSAGE_FILTERS: list[tuple[str, Values, Build]] = [
    (f"filter.{field}", values, lambda v, n=number, f=make: filtered_messages(**f(v))[n])  # type: ignore[misc]
    for number in range(3)
    for field, values, make in (
        ("roles", ROLES, lambda v: {"roles": ["x"] * v}),
        ("roles[0]", ROLE, lambda v: {"roles": [v]}),
        ("created_after", TIME, lambda v: {"created_after": v}),
        ("created_before", TIME, lambda v: {"created_before": v}),
        ("metadata", PATH, lambda v: {"metadata": v}),
    )
]

REPLACE = MetadataMode.METADATA_MODE_REPLACE

# The requests that expect a revision, of what is there or not.
EXPECTING: list[tuple[Any, dict[str, Any]]] = [
    (UpdateSessionRequest, S),
    (DeleteSessionRequest, {"session_id": "none"}),
    (DeleteMemoryRequest, {"session_id": "none"}),
    (AddMemoryRequest, {**S, "messages": [MESSAGE]}),
    (UpdateMessageRequest, {**S, "message_id": "m"}),
    (DeleteMessagesRequest, {**S, "last_n": 1}),
    (UpdateUserRequest, U),
    (DeleteUserRequest, {"user_id": "none"}),
]
WITH_SEQUENCE = (DeleteSessionRequest, DeleteMemoryRequest, DeleteMessagesRequest)


def of_user_filter(request: Callable[..., ProtobufMessage]) -> list[tuple[str, Values, Build]]:
    return [
        ("filter.user_id_prefix", OPTIONAL_ID, lambda v: request(filter={"user_id_prefix": v})),
        ("filter.user_ids", IDS, lambda v: request(filter={"user_ids": ["x"] * v})),
        ("filter.user_ids[0]", ID, lambda v: request(filter={"user_ids": [v]})),
        ("filter.email", EMAIL, lambda v: request(filter={"email": v})),
        ("filter.metadata", PATH, lambda v: request(filter={"metadata": v})),
    ]


def of_count() -> list[tuple[str, Values, Build]]:
    def build(name: str) -> Build:
        return lambda v: CountSessionsRequest(filter=SessionFilter(**{name: v}))

    of_filter = {
        "user_id": OPTIONAL_ID,
        "session_id_prefix": OPTIONAL_ID,
        "created_after": TIME,
        "created_before": TIME,
        "updated_after": TIME,
        "updated_before": TIME,
        "metadata": PATH,
    }
    return [
        ("limit", COUNT_LIMIT, lambda v: CountSessionsRequest(limit=v)),
        *((f"filter.{name}", values, build(name)) for name, values in of_filter.items()),
    ]


FIELDS: list[tuple[str, Values, Build]] = [
    ("session_id", ID, lambda v: AddSessionRequest(session_id=v)),
    ("session_id", ID, lambda v: UpdateSessionRequest(session_id=v)),
    ("session_id", ID, lambda v: GetSessionRequest(session_id=v)),
    ("session_id", ID, lambda v: DeleteSessionRequest(session_id=v)),
    ("session_id", ID, lambda v: AddMemoryRequest(session_id=v, messages=[MESSAGE])),
    ("session_id", ID, lambda v: GetMemoryRequest(session_id=v)),
    ("session_id", ID, lambda v: DeleteMemoryRequest(session_id=v)),
    ("session_id", ID, lambda v: ListMessagesRequest(session_id=v)),
    ("session_id", ID, lambda v: StreamMessagesRequest(session_id=v)),
    ("session_id", ID, lambda v: GetMessageRequest(session_id=v, message_id="m")),
    ("session_id", ID, lambda v: UpdateMessageRequest(session_id=v, message_id="m")),
    ("session_id", ID, lambda v: DeleteMessagesRequest(session_id=v, last_n=1)),
    ("user_id", OPTIONAL_ID, lambda v: AddSessionRequest(session_id="new", user_id=v)),
    ("user_id", OPTIONAL_ID, lambda v: UpdateSessionRequest(session_id="s", user_id=v)),
    ("user_id", OPTIONAL_ID, lambda v: AddMemoryRequest(**S, user_id=v, messages=[MESSAGE])),
    ("filter.user_id", OPTIONAL_ID, lambda v: filtered(user_id=v)),
    ("filter.user_id", OPTIONAL_ID, lambda v: all_filtered(user_id=v)),
    ("user_id", ID, lambda v: AddUserRequest(user_id=v)),
    ("user_id", ID, lambda v: GetUserRequest(user_id=v)),
    ("user_id", ID, lambda v: UpdateUserRequest(user_id=v)),
    ("user_id", ID, lambda v: DeleteUserRequest(user_id=v)),
    ("email", EMAIL, lambda v: AddUserRequest(user_id="new", email=v)),
    ("email", EMAIL, lambda v: UpdateUserRequest(user_id="u", email=v)),
    ("first_name", NAME, lambda v: AddUserRequest(user_id="new", first_name=v)),
    ("first_name", NAME, lambda v: UpdateUserRequest(user_id="u", first_name=v)),
    ("last_name", NAME, lambda v: AddUserRequest(user_id="new", last_name=v)),
    ("last_name", NAME, lambda v: UpdateUserRequest(user_id="u", last_name=v)),
    ("message_id", ID, lambda v: GetMessageRequest(session_id="s", message_id=v)),
    ("message_id", ID, lambda v: UpdateMessageRequest(session_id="s", message_id=v)),
    ("message_ids[0]", ID, lambda v: DeleteMessagesRequest(session_id="s", message_ids=[v])),
    ("messages[0].message_id", OPTIONAL_ID, lambda v: added(message_id=v)),
    ("messages[0].role", ROLE, lambda v: added(role=v)),
    ("role", ROLE, lambda v: updated(role=v)),
    ("messages[0].content", CONTENT, lambda v: added(content=v)),
    ("content", CONTENT, lambda v: updated(content=v)),
    ("messages[0].payload", PAYLOAD, lambda v: added(payload=v)),
    ("payload", PAYLOAD, lambda v: updated(payload=v)),
    ("messages[0].payload_type", PAYLOAD_TYPE, lambda v: added(payload_type=v)),
    ("payload_type", PAYLOAD_TYPE, lambda v: updated(payload_type=v)),
    ("metadata", METADATA, lambda v: AddSessionRequest(session_id="new", metadata=v)),
    ("metadata", METADATA, lambda v: UpdateSessionRequest(**S, metadata=v, replace_metadata=True)),
    ("messages[0].metadata", METADATA, lambda v: added(metadata=v)),
    ("metadata", PATCH, lambda v: updated(metadata=v)),
    ("metadata", METADATA, lambda v: AddUserRequest(user_id="new", metadata=v)),
    ("metadata", METADATA, lambda v: UpdateUserRequest(**U, metadata=v, replace_metadata=True)),
    ("limit", LIMIT, lambda v: ListSessionsRequest(limit=v)),
    ("limit", LIMIT, lambda v: ListMessagesRequest(session_id="s", limit=v)),
    ("limit", LIMIT, lambda v: ListUsersRequest(limit=v)),
    ("chunk_size", LIMIT, lambda v: ListAllSessionsRequest(chunk_size=v)),
    ("chunk_size", LIMIT, lambda v: ListAllUsersRequest(chunk_size=v)),
    ("chunk_size", LIMIT, lambda v: StreamMessagesRequest(session_id="s", chunk_size=v)),
    ("cursor", CURSOR, lambda v: ListSessionsRequest(cursor=v)),
    ("cursor", CURSOR, lambda v: ListSessionsRequest(cursor=v, newest_first=True)),
    ("cursor", CURSOR, lambda v: ListAllSessionsRequest(cursor=v)),
    ("cursor", CURSOR, lambda v: ListUsersRequest(cursor=v)),
    ("cursor", CURSOR, lambda v: ListAllUsersRequest(cursor=v)),
    ("cursor", CURSOR, lambda v: ListMessagesRequest(session_id="s", cursor=v)),
    ("cursor", CURSOR, lambda v: StreamMessagesRequest(session_id="s", cursor=v)),
    ("last_n", COUNT, lambda v: GetMemoryRequest(session_id="s", last_n=v)),
    ("max_tokens", COUNT, lambda v: GetMemoryRequest(session_id="s", max_tokens=v)),
    ("messages[0].token_count", COUNT, lambda v: added(token_count=v)),
    ("token_count", COUNT, lambda v: updated(token_count=v)),
    ("last_n", LAST_N, lambda v: DeleteMessagesRequest(session_id="s", last_n=v)),
    ("messages", MESSAGES, lambda v: AddMemoryRequest(session_id="s", messages=[MESSAGE] * v)),
    ("message_ids", IDS, lambda v: DeleteMessagesRequest(session_id="s", message_ids=["x"] * v)),
    (
        "expected_last_sequence",
        CURSOR,
        lambda v: AddMemoryRequest(**S, expected_last_sequence=v, messages=[MESSAGE]),
    ),
    ("messages[0].created_at", TIME, lambda v: added(created_at=v)),
    *of_count(),
    ("filter.updated_after", TIME, lambda v: filtered(updated_after=v)),
    ("filter.updated_after", TIME, lambda v: all_filtered(updated_after=v)),
    ("filter.updated_before", TIME, lambda v: filtered(updated_before=v)),
    ("filter.updated_before", TIME, lambda v: all_filtered(updated_before=v)),
    ("filter.session_id_prefix", OPTIONAL_ID, lambda v: filtered(session_id_prefix=v)),
    ("filter.session_id_prefix", OPTIONAL_ID, lambda v: all_filtered(session_id_prefix=v)),
    ("filter.created_after", TIME, lambda v: filtered(created_after=v)),
    ("filter.created_after", TIME, lambda v: all_filtered(created_after=v)),
    ("filter.created_before", TIME, lambda v: filtered(created_before=v)),
    ("filter.created_before", TIME, lambda v: all_filtered(created_before=v)),
    ("filter.metadata", PATH, lambda v: filtered(metadata=v)),
    ("filter.metadata", PATH, lambda v: all_filtered(metadata=v)),
    *MESSAGE_FILTERS,
    *(
        ("expected_revision", CURSOR, lambda v, k=kind, f=fields: k(**f, expected_revision=v))
        for kind, fields in EXPECTING
    ),
    *(
        (
            "expected_last_sequence",
            CURSOR,
            lambda v, k=kind, f=fields: k(**f, expected_last_sequence=v),
        )
        for kind, fields in EXPECTING
        if kind in WITH_SEQUENCE
    ),
    ("created_at", TIME, lambda v: AddSessionRequest(session_id="new", created_at=v)),
    ("created_at", TIME, lambda v: AddUserRequest(user_id="new", created_at=v)),
    ("first_n", FIRST_N, lambda v: DeleteMessagesRequest(**S, first_n=v)),
    ("start_roles", ROLES, lambda v: GetMemoryRequest(**S, start_roles=["x"] * v)),
    ("start_roles[0]", ROLE, lambda v: GetMemoryRequest(**S, start_roles=[v])),
    ("pinned_roles", ROLES, lambda v: GetMemoryRequest(**S, pinned_roles=["x"] * v)),
    ("pinned_roles[0]", ROLE, lambda v: GetMemoryRequest(**S, pinned_roles=[v])),
    (
        "session_metadata",
        METADATA,
        lambda v: AddMemoryRequest(
            **S, messages=[MESSAGE], session_metadata=v, session_metadata_mode=REPLACE
        ),
    ),
    (
        "user_metadata",
        METADATA,
        lambda v: AddMemoryRequest(
            session_id="of u", messages=[MESSAGE], user_metadata=v, user_metadata_mode=REPLACE
        ),
    ),
    *of_user_filter(ListUsersRequest),
    *of_user_filter(ListAllUsersRequest),
    ("ttl", TTL, lambda v: AddSessionRequest(session_id="new", ttl=v)),
    ("ttl", TTL, lambda v: UpdateSessionRequest(**S, ttl=v)),
    ("ttl", TTL, lambda v: AddMemoryRequest(**S, ttl=v, messages=[MESSAGE])),
    ("older_than", DURATION, lambda v: PurgeDeletedRequest(older_than=v)),
]

# Codes of requests whose fields are valid.
LATER = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.ABORTED,
)


def refused_fields(palaver: Client, request: ProtobufMessage) -> set[str]:
    """Return the fields that a request is refused for."""
    try:
        palaver.send(request)
    except grpc.RpcError as error:
        call = cast("grpc.Call", error)
        if call.code() in LATER:
            return set()
        status = rpc_status.from_call(call)
        detail = BadRequest()
        if status is None or not status.details[0].Unpack(detail):
            raise
        return {violation.field for violation in detail.field_violations}
    return set()


def fields_of(values: Values) -> list[tuple[str, Build]]:
    return [(path, build) for path, of_field, build in FIELDS if of_field is values]


@pytest.mark.parametrize("kind", KINDS)
def test_field_limits_accept_the_edge_and_refuse_beyond(
    palaver: Client, kind: str, subtests: pytest.Subtests
) -> None:
    message = Message(message_id="m", role="user")
    palaver.add_memory("s", [message])
    palaver.add_user("u")
    palaver.add_session("of u", user_id="u")
    values = KINDS[kind]

    for path, build in fields_of(values):
        request = type(build(values.good[0])).__name__
        for value in values.good:
            with subtests.test(f"{request}.{path} takes {str(value)[:40]!r}"):
                assert refused_fields(palaver, build(value)) == set()
        for value in values.bad:
            with subtests.test(f"{request}.{path} does not take {str(value)[:40]!r}"):
                assert refused_fields(palaver, build(value)) == {path}


# The service ignores them: see test_add_memory_output_only_fields_are_ignored.
OUTPUT_ONLY = {"revision", "sequence", "updated_at"}


def paths_in(message: Descriptor, prefix: str = "") -> Iterator[str]:
    """Yield the paths of the fields of a message, and of messages in it, that have limits."""
    for field in message.fields:
        path = prefix + field.name
        if field.is_repeated:
            yield path  # the number of its elements
            path += "[0]"
        if field.message_type and field.message_type.file.package.startswith("palaver."):
            yield from paths_in(field.message_type, f"{path}.")
        elif field.type not in (field.TYPE_BOOL, field.TYPE_ENUM) and field.name not in OUTPUT_ONLY:
            yield path


def test_field_limits_cover_every_field_but_those_of_search_memory() -> None:
    tested = {(build(values.good[0]).DESCRIPTOR.name, path) for path, values, build in FIELDS}
    fields = {
        (method.input_type.name, path)
        for method in contract.METHODS
        for path in paths_in(method.input_type)
        if method.name != "SearchMemory"  # in test_search_memory.py
    }

    assert tested == fields
