"""Odd input: every value that the contract allows comes back byte for byte."""

import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import GetMemoryRequest, GetMessageRequest
from palaver.v1.session_pb2 import Session, SessionFilter
from palaver.v1.session_service_pb2 import ListSessionsRequest
from palaver.v1.user_service_pb2 import AddUserRequest
from tests.support.client import Client, struct

ODD_IDS = [
    "a/b?c#d",
    " ",
    " leading and trailing ",
    "tab\tand\nnewline\r",
    "😀👨‍👩‍👧‍👦",
    "é",  # one character
    "e\u0301",  # the same, as two
    "\u0130stanbul \u0131 ß \ufb01",
    "\u202eright to left",
    "\ufeff\u200b\u2028",
    "\ue000\U0010ffff",
    "\x01\x7f\x85",
    "%s %(a)s {} ${a} $1 \\x00 \\",
    "'; DROP TABLE sessions; --",
    "null",
    "x" * 1024,
    "😀" * 256,
]


def test_odd_input_session_and_user_ids_come_back(palaver: Client) -> None:
    for odd in ODD_IDS:
        palaver.add_session(odd, user_id=odd)

    for odd in ODD_IDS:
        got = palaver.get_session(odd)
        of_user = ListSessionsRequest(filter=SessionFilter(user_id=odd))
        assert (got.session_id, got.user_id) == (odd, odd)
        assert list(palaver.sessions.ListSessions(of_user).sessions) == [got]
        palaver.delete_session(odd)


def test_odd_input_user_fields_come_back(palaver: Client) -> None:
    for odd in ODD_IDS:
        added = palaver.add_user(odd, email=odd[:80], first_name=odd[:256], last_name=odd[-256:])
        assert (added.email, added.first_name, added.last_name) == (odd[:80], odd[:256], odd[-256:])

    for odd in ODD_IDS:
        assert palaver.get_user(odd).user_id == odd
        palaver.delete_user(odd)


def add_and_get(palaver: Client, *messages: Message) -> list[Message]:
    """Add messages, and return as many of the newest ones."""
    palaver.add_memory("s", messages)
    request = GetMemoryRequest(session_id="s", last_n=len(messages))
    return list(palaver.memory.GetMemory(request).messages)


def test_odd_input_message_ids_come_back(palaver: Client) -> None:
    messages = [Message(message_id=odd, role="user", content=odd) for odd in ODD_IDS]

    got = add_and_get(palaver, *messages)

    assert [message.message_id for message in got] == ODD_IDS
    for odd, message in zip(ODD_IDS, got, strict=True):
        request = GetMessageRequest(session_id="s", message_id=odd)
        assert palaver.memory.GetMessage(request) == message
        deleted = palaver.delete_messages("s", message_ids=[odd])
        assert list(deleted.messages) == [message]


# Texts that the contract allows: without NUL and surrogates.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
ids = texts.filter(lambda text: 1 <= len(text.encode()) <= 1024)
# The service stores negative zero as zero.
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
metadata = st.dictionaries(texts, values, max_size=5).map(lambda fields: struct(**fields))

generated = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@generated
@given(session_id=ids, user_id=ids, metadata=metadata)
def test_odd_input_generated_sessions_come_back(
    palaver: Client, session_id: str, user_id: str, metadata: Struct
) -> None:
    added = palaver.add_session(session_id, user_id=user_id, metadata=metadata)
    got = palaver.get_session(session_id)
    palaver.delete_session(session_id)

    assert (got.session_id, got.user_id, got.metadata) == (session_id, user_id, metadata)
    assert added == got


@generated
@given(user_id=ids, email=texts, names=st.tuples(texts, texts), metadata=metadata)
def test_odd_input_generated_users_come_back(
    palaver: Client, user_id: str, email: str, names: tuple[str, str], metadata: Struct
) -> None:
    given = AddUserRequest(
        user_id=user_id,
        email=email[:80],
        first_name=names[0][:256],
        last_name=names[1][:256],
        metadata=metadata,
    )
    added = palaver.users.AddUser(given)
    got = palaver.get_user(user_id)
    palaver.delete_user(user_id)

    assert got == added
    for field, value in given.ListFields():
        assert getattr(got, field.name) == value


@generated
@given(
    message_id=ids,
    role=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=64),
    content=texts,
    metadata=metadata,
    token_count=st.integers(0, 2**31 - 1),
    microseconds=st.integers(-62_135_596_800 * 10**6, 253_402_300_800 * 10**6 - 1),
)
def test_odd_input_generated_messages_come_back(
    palaver: Client,
    *,
    message_id: str,
    role: str,
    content: str,
    metadata: Struct,
    token_count: int,
    microseconds: int,
) -> None:
    message = Message(
        message_id=message_id,
        role=role,
        content=content,
        metadata=metadata,
        token_count=token_count,
    )
    seconds, rest = divmod(microseconds, 10**6)
    message.created_at.CopyFrom(Timestamp(seconds=seconds, nanos=rest * 1000))

    (got,) = add_and_get(palaver, message)
    palaver.delete_messages("s", last_n=1)

    assert got.sequence > 0
    assert got.HasField("updated_at")
    for output_only in ("sequence", "updated_at", "revision"):
        got.ClearField(output_only)
    assert got == message


MIB = 1024 * 1024


def test_odd_input_contents_of_any_size_come_back(palaver: Client) -> None:
    for content in ("", "x" * MIB, "😀" * (MIB // 4), "\n" * MIB):
        (got,) = add_and_get(palaver, Message(role="user", content=content))

        assert got.content == content


def test_odd_input_first_and_last_times_come_back(palaver: Client) -> None:
    moments = [
        Timestamp(seconds=-62_135_596_800),  # year 1
        Timestamp(seconds=-62_135_596_800, nanos=1000),
        Timestamp(seconds=-1, nanos=999_999_000),
        Timestamp(),
        Timestamp(seconds=253_402_300_799, nanos=999_999_000),  # year 9999
    ]

    got = add_and_get(palaver, *(Message(role="user", created_at=moment) for moment in moments))

    assert [message.created_at for message in got] == moments


def put_session(palaver: Client, metadata: Struct) -> Session:
    """Replace the metadata of a session, and return the session."""
    palaver.update_session("s", metadata=metadata, replace_metadata=True)
    return palaver.get_session("s")


NUMBERS = [
    *(0.0, 1.0, -1.5, 0.1, 1e308, -1e308, 1.7976931348623157e308, 5e-324, 2.2250738585072014e-308),
    *(
        2.0**53,
        2.0**53 - 1,
        2.0**53 + 2,
        -(2.0**53),
        2.0**63,
        2.0**64,
        1e15,
        1e16,
        1e21,
        1e22,
        1e23,
    ),
    *(123456789012345680.0, 9007199254740993.0, 1 / 3, math.pi, 1e-7, 123456.789),
]


def test_odd_input_numbers_come_back_exactly(palaver: Client) -> None:
    palaver.add("s", "hello")

    got = put_session(palaver, struct(numbers=NUMBERS))

    values = [value.number_value for value in got.metadata.fields["numbers"].list_value.values]
    assert values == NUMBERS


def test_odd_input_negative_zero_becomes_zero(palaver: Client) -> None:
    palaver.add("s", "hello")

    got = put_session(palaver, struct(zero=-0.0))

    assert math.copysign(1, got.metadata.fields["zero"].number_value) == 1


def test_odd_input_metadata_of_32_levels_comes_back(palaver: Client) -> None:
    palaver.add("s", "hello")
    objects: dict[str, Any] = {}
    lists: list[Any] = []
    for _ in range(30):
        objects, lists = {"a": objects}, [lists]

    for metadata in (struct(a=objects), struct(a=lists)):
        assert put_session(palaver, metadata).metadata == metadata


def test_odd_input_metadata_comes_back(palaver: Client, subtests: pytest.Subtests) -> None:
    palaver.add("s", "hello")
    odd: list[dict[str, Any]] = [
        {"": ""},
        {"a": {}, "b": [], "c": [[], {}], "d": None},
        {"a": True, "b": False, "c": 0, "d": 1, "e": "0", "f": "true"},
        {"\\u0000": "\\", '"': "\"'", "😀": "\x01\x1f\x7f"},
        {"constructor": 1, "__proto__": 2, "fields": {"fields": 3}},
        {str(number): number for number in range(1000)},
    ]

    for fields in odd:
        with subtests.test(metadata=str(fields)[:40]):
            assert put_session(palaver, struct(**fields)).metadata == struct(**fields)


def test_odd_input_1000_messages_come_back_in_order(palaver: Client) -> None:
    messages = [
        Message(message_id=f"m{number}", role="user", content=f"content {number}")
        for number in range(1000)
    ]

    got = add_and_get(palaver, *messages)

    assert [message.sequence for message in got] == list(range(1, 1001))
    assert [(m.message_id, m.content) for m in got] == [(m.message_id, m.content) for m in messages]
