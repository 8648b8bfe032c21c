"""Applies requests to the model, and compares the answers of the service with the model's.

A value that only the server knows is checked against its contract, and then adopted.
"""

import re
from collections.abc import Callable, Sequence
from functools import singledispatchmethod
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, ResourceInfo
from google.rpc.status_pb2 import Status

from palaver.v1 import memory_pb2, memory_service_pb2, session_pb2, user_pb2
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    MessageFilter,
    SearchMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
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
from tests.support.model import state
from tests.support.model.sequential import Change, Expected, Model

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

DEFAULT_LIMIT = 100
DEFAULT_COUNT_LIMIT = 10_000

# SQL/JSON paths, and the same conditions in Python.
PATHS: dict[str, Callable[[state.Metadata], bool]] = {
    "": lambda _: True,
    '$.plan == "pro"': lambda m: any(item == "pro" for item in _items(m.get("plan"))),
    "$.n > 1": lambda m: any(type(item) is float and item > 1 for item in _items(m.get("n"))),
    "exists($.a.b)": lambda m: any(
        type(item) is dict and "b" in item for item in _items(m.get("a"))
    ),
    "$.flag": lambda m: m.get("flag") is True,
    "$.flag == null": lambda m: "flag" in m and None in _items(m["flag"]),
}

Check: TypeAlias = Callable[[Sequence[Any]], None]


def plain(struct: Struct) -> state.Metadata:
    """Return a Struct as plain Python; numbers are floats."""
    return {name: _plain(value) for name, value in struct.fields.items()}


def _plain(value: Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return plain(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind == "null_value" else getattr(value, str(kind))


def kept(struct: Struct) -> state.Metadata:
    """Return a Struct as the service must keep it: negative zero becomes zero."""

    def keep(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: keep(item) for name, item in value.items()}
        if isinstance(value, list):
            return [keep(item) for item in value]
        return 0.0 if value == 0.0 and isinstance(value, float) else value

    return {name: keep(value) for name, value in plain(struct).items()}


def nanoseconds(timestamp: Timestamp) -> int:
    return timestamp.seconds * 1_000_000_000 + timestamp.nanos


class Contract:
    """Applies requests to a model, and compares responses with the model's answers."""

    def __init__(self, model: Model) -> None:
        self.model = model

    @singledispatchmethod
    def expect(self, request: ProtobufMessage) -> Check:
        """Apply a request to the model, and return the check of the service's responses.

        The check raises AssertionError if the responses are not those of the model.

        Raises:
            Refused: The service must refuse the request.
        """
        raise NotImplementedError(type(request))

    @expect.register
    def _add_session(self, request: AddSessionRequest) -> Check:
        session = self.model.add_session(
            request.session_id,
            request.user_id,
            kept(request.metadata),
            created_at=stored_time(request),
            user_must_exist=request.user_must_exist,
            ttl=_ttl(request),
        )
        return lambda responses: self.compare_session(session, *responses)

    @expect.register
    def _update_session(self, request: UpdateSessionRequest) -> Check:
        session = self.model.update_session(
            request.session_id,
            kept(request.metadata) if request.HasField("metadata") else None,
            mode=request.metadata_mode,
            user_id=request.user_id if request.HasField("user_id") else None,
            revision=expected_by(request).revision,
            undelete=request.undelete,
            allow_missing=request.allow_missing,
            ttl=_ttl(request),
        )
        return lambda responses: self.compare_session(session, *responses)

    @expect.register
    def _get_session(self, request: GetSessionRequest) -> Check:
        session = self.model.session(request.session_id)
        return lambda responses: self.compare_session(session, *responses)

    @expect.register
    def _delete_session(self, request: DeleteSessionRequest | DeleteMemoryRequest) -> Check:
        count = self.model.delete_session(request.session_id, expected_by(request))

        def check(responses: Sequence[Any]) -> None:
            (response,) = responses
            assert response.messages_deleted == count
            self.settle_time(self.model.now(), response.deleted_at)

        return check

    @expect.register
    def _list_sessions(self, request: ListSessionsRequest | ListAllSessionsRequest) -> Check:
        expected = self.model.sessions(
            newest_first=request.newest_first,
            cursor=request.cursor,
            matches=lambda session: _matches(request.filter, session),
        )
        return self._listing("sessions", expected, request)

    @expect.register
    def _count_sessions(self, request: CountSessionsRequest) -> Check:
        count = len(
            self.model.sessions(
                newest_first=False,
                cursor=0,
                matches=lambda session: _matches(request.filter, session),
            )
        )
        limit = request.limit or DEFAULT_COUNT_LIMIT

        def check(responses: Sequence[Any]) -> None:
            (response,) = responses
            assert response.count == min(count, limit)
            assert response.has_more == (count > limit)

        return check

    @expect.register
    def _add_user(self, request: AddUserRequest) -> Check:
        user = self.model.add_user(
            request.user_id,
            email=request.email,
            first_name=request.first_name,
            last_name=request.last_name,
            metadata=kept(request.metadata),
        )
        return lambda responses: self.compare_user(user, *responses)

    @expect.register
    def _update_user(self, request: UpdateUserRequest) -> Check:
        user = self.model.update_user(
            request.user_id,
            kept(request.metadata) if request.HasField("metadata") else None,
            mode=request.metadata_mode,
            revision=expected_by(request).revision,
            allow_missing=request.allow_missing,
            **_given(request, "email", "first_name", "last_name"),
        )
        return lambda responses: self.compare_user(user, *responses)

    @expect.register
    def _get_user(self, request: GetUserRequest) -> Check:
        user = self.model.user(request.user_id)
        return lambda responses: self.compare_user(user, *responses)

    @expect.register
    def _delete_user(self, request: DeleteUserRequest) -> Check:
        counts = self.model.delete_user(request.user_id, expected_by(request).revision)

        def check(responses: Sequence[Any]) -> None:
            (response,) = responses
            assert (response.sessions_deleted, response.messages_deleted) == counts
            self.settle_time(self.model.now(), response.deleted_at)

        return check

    @expect.register
    def _list_users(self, request: ListUsersRequest | ListAllUsersRequest) -> Check:
        expected = self.model.users(
            newest_first=request.newest_first,
            cursor=request.cursor,
            matches=lambda user: _is_among(request.filter, user),
        )
        return self._listing("users", expected, request)

    @expect.register
    def _add_memory(self, request: AddMemoryRequest) -> Check:
        expected = self.model.add_memory(
            request.session_id,
            [as_given(message) for message in request.messages],
            user_id=request.user_id,
            expected=expected_by(request),
            session_must_exist=request.session_must_exist,
            session_change=_change(request, "session_metadata"),
            user_change=_change(request, "user_metadata"),
            replace=request.replace_messages,
            ttl=_ttl(request),
        )

        def check(responses: Sequence[Any]) -> None:
            (actual,) = responses
            assert actual.session_created == expected.session_created
            assert actual.session_undeleted == expected.session_undeleted
            assert actual.messages_deleted == expected.messages_deleted
            assert actual.HasField("session") == request.return_session
            if request.return_session:
                self.compare_session(self.model.session(request.session_id), actual.session)
            for added, told in zip(expected.messages, actual.messages, strict=True):
                self.compare_added(added, told)

        return check

    @expect.register
    def _get_memory(self, request: GetMemoryRequest) -> Check:
        expected = self.model.get_memory(
            request.session_id,
            last_n=request.last_n,
            max_tokens=request.max_tokens,
            start_roles=request.start_roles,
            pinned_roles=request.pinned_roles,
            passes=lambda message: _passes(request.filter, message),
        )

        def check(responses: Sequence[Any]) -> None:
            (actual,) = responses
            assert actual.session_id == request.session_id
            assert actual.HasField("session") == request.return_session
            assert actual.HasField("metadata") != request.return_session
            metadata = actual.session.metadata if request.return_session else actual.metadata
            assert state.as_json(plain(metadata)) == state.as_json(expected.metadata)
            assert actual.has_more == expected.has_more
            assert actual.HasField("total_count") == request.total_count
            assert not request.total_count or actual.total_count == expected.total
            self._compare_items(
                "messages",
                expected.messages,
                actual.messages,
                without_payload=request.without_payload,
            )

        return check

    @expect.register
    def _list_messages(self, request: ListMessagesRequest | StreamMessagesRequest) -> Check:
        expected = self.model.messages(
            request.session_id,
            newest_first=isinstance(request, ListMessagesRequest) and request.newest_first,
            cursor=request.cursor,
            passes=lambda message: _passes(request.filter, message),
        )
        return self._listing("messages", expected, request)

    @expect.register
    def _get_message(self, request: GetMessageRequest) -> Check:
        message = self.model.message(request.session_id, request.message_id)
        return lambda responses: self.compare_message(
            message, *responses, without_payload=request.without_payload
        )

    @expect.register
    def _update_message(self, request: UpdateMessageRequest) -> Check:
        given = _given(request, "role", "content", "token_count", "payload", "payload_type")
        if request.HasField("metadata"):
            given["metadata"] = kept(request.metadata)
        message = self.model.update_message(
            request.session_id,
            request.message_id,
            mode=request.metadata_mode,
            revision=expected_by(request).revision,
            **given,
        )
        return lambda responses: self.compare_message(
            message, *responses, without_payload=request.without_payload
        )

    @expect.register
    def _delete_messages(self, request: DeleteMessagesRequest) -> Check:
        gone = self.model.delete_messages(
            request.session_id,
            message_ids=request.message_ids,
            first_n=request.first_n,
            last_n=request.last_n,
            expected=expected_by(request),
        )
        return lambda responses: self._compare_items(
            "messages", gone, responses[0].messages, without_payload=request.without_payload
        )

    @expect.register
    def _search_memory(self, request: SearchMemoryRequest) -> Check:
        """Expect all live messages that contain the text, a word or nothing."""
        sessions = (
            [self.model.session(request.session_id)]
            if request.HasField("session_id")
            else self.model.sessions(newest_first=False, cursor=0, matches=lambda _: True)
        )
        # By sequence: an ID that the service chose is unknown if the answer of the add was lost.
        expected = {
            (session.session_id, message.sequence): message
            for session in sessions
            for message in session.messages
            if request.text in message.content
        }

        def check(responses: Sequence[Any]) -> None:
            (actual,) = responses
            found = {
                (result.session_id, result.message.sequence): result.message
                for result in actual.results
            }
            assert len(found) == len(actual.results)
            if len(expected) <= request.limit:
                assert found.keys() == expected.keys()
                for key, message in found.items():
                    self.compare_message(
                        expected[key], message, without_payload=request.without_payload
                    )

        return check

    def compare_refusal(self, refusal: state.Refused, error: grpc.RpcError) -> None:
        """Compare an error of the service with a refusal of the model."""
        (packed,) = _status_of(error).details
        match refusal:
            case state.Stale(args=(name, _, actual)):
                code, info = grpc.StatusCode.ABORTED, ErrorInfo()
                assert packed.Unpack(info)
                assert info.reason == f"STALE_{name.upper()}"
                self._settle(actual, int(info.metadata[name]))
            case state.Invalid(args=(field,)):
                code, bad = grpc.StatusCode.INVALID_ARGUMENT, BadRequest()
                assert packed.Unpack(bad)
                assert [violation.field for violation in bad.field_violations] == [field]
            case state.NotFound(args=names) | state.AlreadyExists(args=names):
                missing, resource = isinstance(refusal, state.NotFound), ResourceInfo()
                code = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.ALREADY_EXISTS
                assert packed.Unpack(resource)
                assert (resource.resource_type, resource.resource_name) == (
                    f"palaver.v1.{names[0]}",
                    names[1],
                )
            case _:
                raise AssertionError(refusal)
        assert error.code() is code, error

    def _listing(self, kind: str, expected: Sequence[Any], request: Any) -> Check:
        """Return the check of a page, or of the chunks of a stream."""
        options = {"without_payload": request.without_payload} if kind == "messages" else {}

        def check(responses: Sequence[Any]) -> None:
            if "chunk_size" in request.DESCRIPTOR.fields_by_name:
                limit = request.chunk_size or DEFAULT_LIMIT
                self.compare_chunks(kind, expected, responses, limit, **options)
            else:
                (page,) = responses
                limit = request.limit or DEFAULT_LIMIT
                self.compare_page(kind, expected, page, limit, **options)

        return check

    def compare_page(
        self, kind: str, expected: Sequence[Any], actual: Any, limit: int, **options: bool
    ) -> None:
        """Compare a page with the rest of the listing."""
        self._compare_items(kind, expected[:limit], getattr(actual, kind), **options)
        has_more = len(expected) > limit
        assert actual.next_cursor == (_position(getattr(actual, kind)[-1]) if has_more else 0)

    def compare_chunks(
        self, kind: str, expected: Sequence[Any], actual: Sequence[Any], limit: int, **options: bool
    ) -> None:
        """Compare the chunks of a stream with the rest of the listing."""
        chunks = [getattr(response, kind) for response in actual]
        items = [item for chunk in chunks for item in chunk]
        self._compare_items(kind, expected, items, **options)
        assert all(1 <= len(chunk) <= limit for chunk in chunks)
        ends = [_position(chunk[-1]) for chunk in chunks]
        assert [response.next_cursor for response in actual] == ends

    def _compare_items(
        self, kind: str, expected: Sequence[Any], actual: Sequence[Any], **options: bool
    ) -> None:
        compare: Any = {
            "sessions": self.compare_session,
            "messages": self.compare_message,
            "users": self.compare_user,
        }[kind]
        assert len(actual) == len(expected)
        for expected_item, actual_item in zip(expected, actual, strict=True):
            compare(expected_item, actual_item, **options)

    def compare_session(self, expected: state.Session, actual: session_pb2.Session) -> None:
        assert actual.session_id == expected.session_id
        assert actual.user_id == expected.user_id
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        assert actual.last_sequence == expected.last_sequence
        expected.revision = self._settle(expected.revision, actual.revision)
        expected.id = self._settle(expected.id, actual.id)
        self.model.saw_id(state.Session, actual.id)
        self._compare_times(expected, actual)
        assert _ttl(actual) == expected.ttl
        assert actual.HasField("expires_at") == (expected.expires_at is not None)
        if expected.expires_at is not None:
            told = nanoseconds(actual.expires_at)
            expected.expires_at = self._settle(expected.expires_at, told)

    def compare_user(self, expected: state.User, actual: user_pb2.User) -> None:
        assert actual.user_id == expected.user_id
        assert actual.email == expected.email
        assert (actual.first_name, actual.last_name) == (expected.first_name, expected.last_name)
        expected.revision = self._settle(expected.revision, actual.revision)
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        expected.id = self._settle(expected.id, actual.id)
        self.model.saw_id(state.User, actual.id)
        self._compare_times(expected, actual)

    def compare_message(
        self, expected: state.Message, actual: memory_pb2.Message, *, without_payload: bool = False
    ) -> None:
        self._settle_id(expected, actual.message_id)
        assert (actual.role, actual.content) == (expected.role, expected.content)
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        assert actual.token_count == expected.token_count
        assert actual.payload == (b"" if without_payload else expected.payload)
        assert actual.payload_type == expected.payload_type
        assert actual.sequence == expected.sequence
        expected.revision = self._settle(expected.revision, actual.revision)
        self._compare_times(expected, actual)

    def compare_added(
        self, expected: state.Message, actual: memory_service_pb2.AddedMessage
    ) -> None:
        self._settle_id(expected, actual.message_id)
        assert actual.sequence == expected.sequence
        expected.created_at = self.settle_time(expected.created_at, actual.created_at)

    def _settle_id(self, expected: state.Message, actual: str) -> None:
        if not expected.message_id:
            assert UUID7.fullmatch(actual)
            expected.message_id = actual
        assert actual == expected.message_id

    def _compare_times(
        self,
        expected: state.Session | state.Message | state.User,
        actual: session_pb2.Session | memory_pb2.Message | user_pb2.User,
    ) -> None:
        expected.created_at = self.settle_time(expected.created_at, actual.created_at)
        expected.updated_at = self.settle_time(expected.updated_at, actual.updated_at)

    def settle_time(self, expected: state.Number, actual: Timestamp) -> int:
        time = self._settle(expected, nanoseconds(actual))
        if isinstance(expected, state.Later):
            assert actual.nanos % 1000 == 0
            self.model.saw_time(time)
        return time

    def _settle(self, expected: state.Number, actual: int) -> int:
        if isinstance(expected, state.Later):
            assert actual >= expected.least, f"{actual}, not {expected.least} or more"
        else:
            assert actual == expected, f"{actual}, not {expected}"
        return actual


def _ttl(message: Any) -> int | None:
    """Return the TTL of a request or a session in microseconds; None if it has none."""
    return message.ttl.ToMicroseconds() if message.HasField("ttl") else None


def expected_by(request: Any) -> Expected:
    """Return the state that a request expects."""

    def given(field: str) -> int | None:
        has_field = field in request.DESCRIPTOR.fields_by_name and request.HasField(field)
        return getattr(request, field) if has_field else None

    return Expected(given("expected_revision"), given("expected_last_sequence"))


def stored_time(request: Any) -> int | None:
    """Return the `created_at` of a request as it is kept: in microseconds, rounded down."""
    if not request.HasField("created_at"):
        return None
    return nanoseconds(request.created_at) // 1000 * 1000


def _position(item: session_pb2.Session | memory_pb2.Message | user_pb2.User) -> int:
    return item.sequence if isinstance(item, memory_pb2.Message) else item.id


def _status_of(error: Any) -> Status:
    """Return the details of an error, of a call of either kind of channel."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return Status.FromString(value)
    raise AssertionError(f"the error has no details: {error}")


def _given(request: Any, *fields: str) -> dict[str, Any]:
    return {name: getattr(request, name) for name in fields if request.HasField(name)}


def _change(request: AddMemoryRequest, field: str) -> Change | None:
    """Return the change that a request asks for."""
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    return kept(getattr(request, field)), getattr(request, f"{field}_mode")


def as_given(message: memory_pb2.Message) -> state.Message:
    """Convert a message to the model's; times are kept in microseconds, rounded down."""
    given = state.Message(
        message.message_id,
        message.role,
        message.content,
        kept(message.metadata),
        message.token_count,
        payload=message.payload,
        payload_type=message.payload_type,
    )
    if (created_at := stored_time(message)) is not None:
        given.created_at = created_at
    return given


def as_told(message: memory_pb2.Message) -> state.Message:
    """Convert a message that the service returned to the model's."""
    told = as_given(message)
    told.sequence, told.revision = message.sequence, message.revision
    told.created_at = nanoseconds(message.created_at)
    told.updated_at = nanoseconds(message.updated_at)
    return told


def _passes(filter: MessageFilter, message: state.Message) -> bool:
    """Return whether a message passes a filter, whose path is one of PATHS."""
    has_role = not filter.roles or message.role in filter.roles
    return has_role and PATHS[filter.metadata](message.metadata)


def _matches(filter: session_pb2.SessionFilter, session: state.Session) -> bool:
    """Return whether a session passes a filter, whose path is one of PATHS."""
    after, before = nanoseconds(filter.created_after), nanoseconds(filter.created_before)
    return (
        filter.user_id in {"", session.user_id}
        and session.session_id.startswith(filter.session_id_prefix)
        and PATHS[filter.metadata](session.metadata)
        and (not filter.HasField("created_after") or after <= state.known(session.created_at))
        and (not filter.HasField("created_before") or state.known(session.created_at) < before)
        and (
            not filter.HasField("updated_after")
            or nanoseconds(filter.updated_after) <= state.known(session.updated_at)
        )
        and (
            not filter.HasField("updated_before")
            or state.known(session.updated_at) < nanoseconds(filter.updated_before)
        )
    )


def _is_among(filter: user_pb2.UserFilter, user: state.User) -> bool:
    """Return whether a user passes a filter, whose path is one of PATHS."""
    return (
        user.user_id.startswith(filter.user_id_prefix)
        and (not filter.user_ids or user.user_id in filter.user_ids)
        and filter.email in {"", user.email}
        and PATHS[filter.metadata](user.metadata)
    )


def _items(value: Any) -> list[Any]:
    """Return the values that a path in lax mode compares: the items of a list."""
    return value if isinstance(value, list) else [value]
