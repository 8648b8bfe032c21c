"""Conversion between protobuf messages and rows."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palaver.v1.memory_pb2 import Message
from palaver.v1.session_pb2 import Session
from palaver_server.database.timestamps import EPOCH, PgTimestamp, as_datetime
from palaver_server.services.encoding.messages import encode_messages
from palaver_server.services.encoding.metadata import (
    json_from_object,
    object_from_struct,
    struct_from_json,
)
from palaver_server.services.encoding.sessions import encode_session
from palaver_server.services.encoding.timestamps import datetime_from_timestamp, timestamp_message
from palaver_server.store.messages import MessageRow
from palaver_server.store.sessions import SessionRow
from tests.support.client import struct


def at(time: datetime) -> PgTimestamp:
    return (time - EPOCH) // timedelta(microseconds=1)


NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
AT_NOON = at(NOON)
A_SECOND_LATER = at(NOON + timedelta(seconds=1))

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
# jsonb does not store negative zero.
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
objects = st.dictionaries(texts, values, max_size=4)

generated = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@generated
@given(objects)
def test_struct_round_trips_through_json(fields: dict[str, Any]) -> None:
    given_struct = struct(**fields)

    text = json_from_object(object_from_struct(given_struct, max_levels=100))

    assert struct_from_json(text) == given_struct


@generated
@given(objects)
def test_struct_equals_its_json(fields: dict[str, Any]) -> None:
    converted = object_from_struct(struct(**fields), max_levels=100)

    assert converted == fields
    assert json.loads(json_from_object(converted)) == fields


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1.0, "1"),
        (-1.0, "-1"),
        (1.5, "1.5"),
        (2.0**53 - 1, "9007199254740991"),
        (2.0**53, "9007199254740992.0"),
        (1e308, "1e+308"),
    ],
)
def test_struct_integral_numbers_are_integers_while_exact(number: float, text: str) -> None:
    converted = object_from_struct(struct(n=number), max_levels=1)

    assert json_from_object(converted) == f'{{"n":{text}}}'


def test_struct_json_is_compact_and_unescaped() -> None:
    assert json_from_object({"é": ["😀", None, True], "b": {}}) == '{"é":["😀",null,true],"b":{}}'


def test_struct_depth_is_limited() -> None:
    nested = struct(a=[{"b": 1}])

    assert object_from_struct(nested, max_levels=3) == {"a": [{"b": 1}]}
    with pytest.raises(ValueError, match="levels"):
        object_from_struct(nested, max_levels=2)
    with pytest.raises(ValueError, match="levels"):
        object_from_struct(struct(a=[]), max_levels=1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"a": float("nan")}, "NaN"),
        ({"a": [float("inf")]}, "infinite"),
        ({"a": {"b": -float("inf")}}, "infinite"),
        ({"a": "b\0"}, "NUL"),
        ({"a\0": 1}, "NUL"),
        ({"a": [{"b\0": 1}]}, "NUL"),
    ],
)
def test_struct_values_outside_json_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        object_from_struct(struct(**fields), max_levels=32)


def test_struct_value_without_kind_is_refused() -> None:
    empty = Struct()
    empty.fields["a"].SetInParent()

    with pytest.raises(ValueError, match="without a kind"):
        object_from_struct(empty, max_levels=32)


@generated
@given(st.datetimes(timezones=st.just(UTC)))
def test_timestamp_round_trips(time: datetime) -> None:
    assert as_datetime(at(time)) == time
    assert datetime_from_timestamp(timestamp_message(at(time))) == time


@generated
@given(
    st.integers(-62_135_596_800, 253_402_300_799),
    st.integers(0, 999_999_999),
)
def test_timestamp_is_rounded_down_to_microseconds(seconds: int, nanos: int) -> None:
    time = datetime_from_timestamp(Timestamp(seconds=seconds, nanos=nanos))
    converted = timestamp_message(at(time))

    assert converted == Timestamp(seconds=seconds, nanos=nanos - nanos % 1000)


@pytest.mark.parametrize("seconds", [-62_135_596_801, 253_402_300_800, 2**63 - 1, -(2**63)])
def test_timestamp_outside_years_1_to_9999_overflows(seconds: int) -> None:
    with pytest.raises(OverflowError):
        datetime_from_timestamp(Timestamp(seconds=seconds))


def test_session_is_encoded_completely() -> None:
    row = SessionRow("s", 7, "u", '{"plan": "pro"}', 3, AT_NOON, A_SECOND_LATER, 9)

    message = Session.FromString(encode_session(row))

    assert (message.session_id, message.id, message.user_id) == ("s", 7, "u")
    assert (message.metadata, message.last_sequence) == (struct(plan="pro"), 3)
    assert message.revision == 9
    assert message.created_at.ToDatetime(UTC) == NOON
    assert message.updated_at.ToDatetime(UTC) == NOON + timedelta(seconds=1)


def test_session_without_user_and_metadata_has_empty_ones() -> None:
    row = SessionRow("s", 7, None, "{}", 0, AT_NOON, AT_NOON, 1)

    message = Session.FromString(encode_session(row))

    assert message.user_id == ""
    assert message.HasField("metadata")
    assert message.metadata == Struct()


def test_message_is_encoded_completely() -> None:
    row = MessageRow("m", 4, "user", "hello", 5, '{"a": 1}', AT_NOON, A_SECOND_LATER, 9)

    (encoded,) = encode_messages([row])
    message = Message.FromString(encoded)

    assert (message.message_id, message.sequence, message.role) == ("m", 4, "user")
    assert (message.content, message.token_count) == ("hello", 5)
    assert message.metadata == struct(a=1)
    assert message.revision == 9
    assert message.created_at.ToDatetime(UTC) == NOON
    assert message.updated_at.ToDatetime(UTC) == NOON + timedelta(seconds=1)
