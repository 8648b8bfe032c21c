"""Rules for fields, and the violations of those that break them."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver_server.errors import InvalidRequest
from palaver_server.services.validation import Fields
from tests.support.client import struct


def invalid(check: Callable[[Fields], object]) -> InvalidRequest:
    """Return the error of a block in which a check rejects fields."""
    with pytest.raises(InvalidRequest) as raised, Fields() as fields:
        check(fields)
    return raised.value


def violations(check: Callable[[Fields], object]) -> list[str]:
    """Return the paths of the fields that a check rejects."""
    return [violation.field for violation in invalid(check).violations]


def test_validation_of_good_fields_returns_values() -> None:
    with Fields() as fields:
        assert fields.id("a", "x") == "x"
        assert fields.optional_id("a", "") is None
        assert fields.ids("a", ["x", "y"]) == ["x", "y"]
        assert fields.role("a", "user") == "user"
        assert fields.content("a", "") == ""
        assert fields.path("a", "") is None
        assert fields.not_negative("a", 0) == 0


def test_validation_raises_all_violations_in_order() -> None:
    def check(fields: Fields) -> None:
        fields.id("session_id", "")
        fields.role("role", "x" * 65)
        fields.not_negative("cursor", -1)

    error = invalid(check)

    assert [violation.field for violation in error.violations] == ["session_id", "role", "cursor"]
    assert all(violation.description for violation in error.violations)
    assert all(violation.field in str(error) for violation in error.violations)


def test_validation_ends_after_twenty_violations() -> None:
    def check(fields: Fields) -> None:
        fields.ids("ids", [""] * 1000)

    error = invalid(check)

    assert len(error.violations) == 20
    assert not error.is_complete


def test_validation_does_not_check_items_of_list_over_limit() -> None:
    def check(fields: Fields) -> None:
        fields.ids("ids", [""] * 1001)
        fields.roles("roles", [""] * 101)

    assert violations(check) == ["ids", "roles"]


def test_validation_names_nested_fields_by_path() -> None:
    def check(fields: Fields) -> None:
        message = fields.at("messages[2]")
        message.role("role", "")
        message.at("metadata").id("deep", "")

    assert violations(check) == ["messages[2].role", "messages[2].metadata.deep"]


def test_validation_names_invalid_ids_by_index() -> None:
    assert violations(lambda fields: fields.ids("ids", ["a", "", "b", "\0"])) == [
        "ids[1]",
        "ids[3]",
    ]


def test_validation_does_not_hide_error_of_block() -> None:
    def check(fields: Fields) -> None:
        fields.id("a", "")
        raise KeyError

    with pytest.raises(KeyError):
        invalid(check)


def test_validation_does_not_quote_values() -> None:
    def check(fields: Fields) -> None:
        fields.content("content", "secret\0")
        fields.id("id", "secret" * 1000)
        fields.metadata("metadata", Message(metadata=struct(secret="secret\0")))

    error = invalid(check)

    assert len(error.violations) == 3
    assert "secret" not in str(error)


def test_validation_metadata_is_compact_json_or_empty() -> None:
    with Fields() as fields:
        assert fields.metadata("metadata", Message()) == "{}"
        given = Message(metadata=struct(a=[1, {"é": None}]))
        assert fields.metadata("metadata", given) == '{"a":[1,{"é":null}]}'


def test_validation_absent_patch_differs_from_empty() -> None:
    with Fields() as fields:
        assert fields.metadata_patch("metadata", Message()) is None
        assert fields.metadata_patch("metadata", Message(metadata=struct())) == {}


def test_validation_limit_zero_is_default() -> None:
    with Fields() as fields:
        assert fields.limit("limit", 0) == 100
        assert fields.limit("limit", 1000) == 1000


def test_validation_count_zero_is_none() -> None:
    assert violations(lambda fields: fields.count("messages", 0)) == ["messages"]


def test_validation_absent_time_is_none() -> None:
    with Fields() as fields:
        assert fields.timestamp("created_at", Message()) is None
        epoch = fields.timestamp("created_at", Message(created_at=Timestamp()))
        assert epoch is not None
        assert epoch.timestamp() == 0


def test_validation_duration_is_converted_or_none() -> None:
    given = PurgeDeletedRequest(older_than=Duration(seconds=90, nanos=5000))

    with Fields() as fields:
        assert fields.duration("older_than", PurgeDeletedRequest()) is None
        assert fields.duration("older_than", given) == timedelta(seconds=90, microseconds=5)


def nested(levels: int) -> list[Any]:
    return [nested(levels - 1)] if levels > 1 else []


DESCRIPTIONS: dict[str, Callable[[Fields], object]] = {
    "f: must not be empty": lambda fields: fields.id("f", ""),
    "f: must not have a NUL character": lambda fields: fields.content("f", "\0"),
    "f: must have at most 1024 bytes; got 1025": lambda fields: fields.id("f", "x" * 1025),
    "f: must have at most 64 characters; got 65": lambda fields: fields.role("f", "x" * 65),
    "f: must have at most 100 items; got 101": lambda fields: fields.roles("f", ["x"] * 101),
    "f: must be 1–1000, or 0 for the default (100); got 5000": lambda fields: fields.limit(
        "f", 5000
    ),
    "f: must be 1–1000; got 0": lambda fields: fields.count("f", 0),
    "f: must have 1–1000 items; got 1001": lambda fields: fields.item_count("f", 1001),
    "f: must be 0–1; got nan": lambda fields: fields.fraction("f", math.nan),
    "f: must not be negative; got -1": lambda fields: fields.not_negative("f", -1),
    "metadata: must have at most 65536 bytes as JSON; got 65544": lambda fields: fields.metadata(
        "metadata", Message(metadata=struct(a="x" * 65536))
    ),
    "metadata: must have at most 32 levels of objects and lists": lambda fields: fields.metadata(
        "metadata", Message(metadata=struct(a=nested(32)))
    ),
    "created_at: must be a time in the years 1–9999 with nanos 0–999999999;"
    " got seconds 1, nanos -1": lambda fields: fields.timestamp(
        "created_at", Message(created_at=Timestamp(seconds=1, nanos=-1))
    ),
    "older_than: must be a duration of 0–315576000000 seconds with nanos 0–999999999;"
    " got seconds -1, nanos 0": lambda fields: fields.duration(
        "older_than", PurgeDeletedRequest(older_than=Duration(seconds=-1))
    ),
}


@pytest.mark.parametrize(("text", "check"), DESCRIPTIONS.items())
def test_violation_says_what_is_allowed_and_what_was_given(
    text: str, check: Callable[[Fields], object]
) -> None:
    assert str(invalid(check)) == text
