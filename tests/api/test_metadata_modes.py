"""The modes in which UpdateSession, UpdateUser and UpdateMessage change metadata."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from palaver.v1.memory_pb2 import Message
from palaver.v1.metadata_pb2 import MetadataMode
from palaver.v1.session_pb2 import Session
from palaver.v1.user_pb2 import User
from tests.support.client import Client, struct, violations

Update = Callable[..., Session | User | Message]

BEFORE = {"a": {"b": 1.0}, "c": 2.0, "e": 3.0}
GIVEN = {"a": {"d": None}, "c": None}


@pytest.fixture(params=["UpdateSession", "UpdateUser", "UpdateMessage"])
def update(palaver: Client, request: pytest.FixtureRequest) -> Update:
    """One of the updates, of a resource with BEFORE as its metadata."""
    metadata = struct(**BEFORE)
    match request.param:
        case "UpdateSession":
            palaver.add_session("s", metadata=metadata)
            return lambda **fields: palaver.update_session("s", **fields)
        case "UpdateUser":
            palaver.add_user("u", metadata=metadata)
            return lambda **fields: palaver.update_user("u", **fields)
        case _:
            message = Message(message_id="m", role="user", metadata=metadata)
            palaver.add_memory("s", [message])
            return lambda **fields: palaver.update_message("s", "m", **fields)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("UNSPECIFIED", {"a": {"b": 1.0}, "e": 3.0}),
        ("MERGE_PATCH", {"a": {"b": 1.0}, "e": 3.0}),
        ("REPLACE", GIVEN),
        ("TOP_LEVEL", {**GIVEN, "e": 3.0}),
    ],
)
def test_metadata_mode_merges_replaces_or_sets_top_level(
    update: Update, mode: str, expected: dict[str, Any]
) -> None:
    updated = update(
        metadata=struct(**GIVEN), metadata_mode=MetadataMode.Value(f"METADATA_MODE_{mode}")
    )

    assert MessageToDict(updated.metadata) == expected


def test_metadata_mode_without_metadata_has_no_effect(update: Update) -> None:
    for mode in MetadataMode.values():
        assert MessageToDict(update(metadata_mode=mode).metadata) == BEFORE


def test_metadata_mode_of_another_version_is_refused(update: Update) -> None:
    assert violations(lambda: update(metadata=struct(), metadata_mode=9)) == ["metadata_mode"]


@pytest.mark.parametrize("kind", ["session", "user"])
def test_metadata_mode_contradicting_replace_metadata_is_refused(
    palaver: Client, kind: str
) -> None:
    palaver.add_session("x", user_id="x", metadata=struct(a=1))
    palaver.update_user("x", metadata=struct(a=1))
    update = getattr(palaver, f"update_{kind}")

    for mode in (MetadataMode.METADATA_MODE_MERGE_PATCH, MetadataMode.METADATA_MODE_TOP_LEVEL):
        assert violations(
            lambda: update("x", metadata=struct(), metadata_mode=mode, replace_metadata=True)  # noqa: B023
        ) == ["replace_metadata"]
    assert violations(
        lambda: update("x", metadata=struct(), metadata_mode=9, replace_metadata=True)
    ) == ["metadata_mode"]
    assert MessageToDict(update("x").metadata) == {"a": 1}
    for replaces in (False, True):
        update(
            "x",
            metadata=struct(b=1),
            metadata_mode=MetadataMode.METADATA_MODE_REPLACE,
            replace_metadata=replaces,
        )
        assert MessageToDict(update("x").metadata) == {"b": 1}
