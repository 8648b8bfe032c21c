"""Compares whole answers of the service with those of the model.

A value that only the server knows is checked against its contract, and then adopted.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc.error_details_pb2 import ErrorInfo, ResourceInfo

from palaver.v1 import memory_pb2, memory_service_pb2, session_pb2, user_pb2
from tests.support.client import Client, refused, violations
from tests.support.model import state
from tests.support.model.sequential import Expected, Model

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


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


@dataclass
class Answer:
    """The answer of the model, and the responses of the service."""

    expected: Any
    responses: list[Any]

    @property
    def response(self) -> Any:
        """Return the only response."""
        (response,) = self.responses
        return response


class Answers:
    """Compares the answers of one service with one model."""

    def __init__(self, client: Client, model: Model) -> None:
        self._client = client
        self._model = model

    def send(self, request: ProtobufMessage, expect: Callable[[], Any]) -> Answer | None:
        """Ask the model and the service; return None if both refuse for the same reason."""
        try:
            expected = expect()
        except state.Refused as refusal:
            self._compare_refusal(request, refusal)
            return None
        return Answer(expected, self._client.send(request))

    def _compare_refusal(self, request: ProtobufMessage, refusal: state.Refused) -> None:
        if isinstance(refusal, state.Stale):
            with refused(grpc.StatusCode.ABORTED) as answer:
                self._client.send(request)
            name, _, actual = refusal.args
            assert answer.detail(ErrorInfo).reason == f"STALE_{name.upper()}"
            assert answer.detail(ErrorInfo).metadata[name] == str(actual)
            return
        if isinstance(refusal, state.Invalid):
            assert violations(lambda: self._client.send(request)) == list(refusal.args)
            return
        missing = isinstance(refusal, state.NotFound)
        code = grpc.StatusCode.NOT_FOUND if missing else grpc.StatusCode.ALREADY_EXISTS
        with refused(code) as answer:
            self._client.send(request)
        kind, name = refusal.args
        info = answer.detail(ResourceInfo)
        assert (info.resource_type, info.resource_name) == (f"palaver.v1.{kind}", name)

    def compare_page(self, kind: str, expected: Sequence[Any], actual: Any, limit: int) -> None:
        """Compare a page with the rest of the listing."""
        self._compare_items(kind, expected[:limit], getattr(actual, kind))
        has_more = len(expected) > limit
        assert actual.next_cursor == (_position(getattr(actual, kind)[-1]) if has_more else 0)

    def compare_chunks(
        self, kind: str, expected: Sequence[Any], actual: Sequence[Any], limit: int
    ) -> None:
        """Compare the chunks of a stream with the rest of the listing."""
        chunks = [getattr(response, kind) for response in actual]
        self._compare_items(kind, expected, [item for chunk in chunks for item in chunk])
        assert all(1 <= len(chunk) <= limit for chunk in chunks)
        ends = [_position(chunk[-1]) for chunk in chunks]
        assert [response.next_cursor for response in actual] == ends

    def _compare_items(self, kind: str, expected: Sequence[Any], actual: Sequence[Any]) -> None:
        compare: Any = {
            "sessions": self.compare_session,
            "messages": self.compare_message,
            "users": self.compare_user,
        }[kind]
        assert len(actual) == len(expected)
        for expected_item, actual_item in zip(expected, actual, strict=True):
            compare(expected_item, actual_item)

    def compare_session(self, expected: state.Session, actual: session_pb2.Session) -> None:
        assert actual.session_id == expected.session_id
        assert actual.user_id == expected.user_id
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        assert actual.last_sequence == expected.last_sequence
        assert actual.revision == expected.revision
        expected.id = self._settle(expected.id, actual.id)
        self._model.saw_id(state.Session, actual.id)
        self._compare_times(expected, actual)

    def compare_user(self, expected: state.User, actual: user_pb2.User) -> None:
        assert actual.user_id == expected.user_id
        assert actual.email == expected.email
        assert (actual.first_name, actual.last_name) == (expected.first_name, expected.last_name)
        assert actual.revision == expected.revision
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        expected.id = self._settle(expected.id, actual.id)
        self._model.saw_id(state.User, actual.id)
        self._compare_times(expected, actual)

    def compare_message(self, expected: state.Message, actual: memory_pb2.Message) -> None:
        assert actual.message_id == expected.message_id
        assert (actual.role, actual.content) == (expected.role, expected.content)
        assert state.as_json(plain(actual.metadata)) == state.as_json(expected.metadata)
        assert actual.token_count == expected.token_count
        assert actual.sequence == expected.sequence
        assert actual.revision == expected.revision
        self._compare_times(expected, actual)

    def compare_messages(
        self, expected: Sequence[state.Message], actual: Sequence[memory_pb2.Message]
    ) -> None:
        self._compare_items("messages", expected, actual)

    def compare_added(
        self, expected: state.Message, actual: memory_service_pb2.AddedMessage
    ) -> None:
        if not expected.message_id:
            assert UUID7.fullmatch(actual.message_id)
            expected.message_id = actual.message_id
        assert actual.message_id == expected.message_id
        assert actual.sequence == expected.sequence
        expected.created_at = self.settle_time(expected.created_at, actual.created_at)

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
            self._model.saw_time(time)
        return time

    def _settle(self, expected: state.Number, actual: int) -> int:
        if isinstance(expected, state.Later):
            assert actual >= expected.least
        else:
            assert actual == expected
        return actual


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
