"""UserService.UpdateUser: omitted fields stay, metadata is merged or replaced."""

from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.user_pb2 import User
from tests.support.client import Client, refused, struct
from tests.support.concurrency import at_once


@pytest.fixture
def user(palaver: Client) -> User:
    """The user `u`, with all fields."""
    return palaver.add_user(
        "u",
        email="ada@example.com",
        first_name="Ada",
        last_name="Lovelace",
        metadata=struct(plan="pro", address={"city": "Rome", "zip": "00100"}),
    )


# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["email", "first_name", "last_name"])
@pytest.mark.parametrize("value", ["new", ""])
def test_update_user_one_field_changes_only_that_field(
    palaver: Client, user: User, field: str, value: str
) -> None:
    updated = palaver.update_user("u", **{field: value})

    assert updated.updated_at.ToNanoseconds() > user.updated_at.ToNanoseconds()
    assert palaver.get_user("u") == updated
    expected = User()
    expected.CopyFrom(user)
    setattr(expected, field, value)
    expected.updated_at.CopyFrom(updated.updated_at)
    expected.revision += 1
    assert updated == expected


def test_update_user_metadata_is_merged_at_every_depth(palaver: Client, user: User) -> None:
    updated = palaver.update_user(
        "u", metadata=struct(plan=None, address={"city": "Oslo"}, seats=3)
    )

    assert updated.metadata == struct(address={"city": "Oslo", "zip": "00100"}, seats=3)
    assert (updated.email, updated.id) == (user.email, user.id)
    assert updated.created_at == user.created_at


def test_update_user_replace_metadata_replaces_all_and_keeps_null(
    palaver: Client, user: User
) -> None:
    updated = palaver.update_user("u", metadata=struct(a=None), replace_metadata=True)

    assert updated.metadata == struct(a=None)


def test_update_user_without_metadata_keeps_metadata(palaver: Client, user: User) -> None:
    updated = palaver.update_user("u", first_name="Augusta", replace_metadata=True)

    assert updated.metadata == user.metadata


# --- Limits ------------------------------------------------------------------------------------


def test_update_user_merge_over_metadata_limit_is_refused_and_changes_nothing(
    palaver: Client,
) -> None:
    palaver.add_user("u", metadata=struct(a="x" * 40_000))
    before = palaver.get_user("u")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.update_user("u", metadata=struct(b="x" * 40_000), email="new")

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert palaver.get_user("u") == before


# --- Concurrency -------------------------------------------------------------------------------


def test_update_user_simultaneous_changes_of_different_fields_all_survive(
    palaver: Client, user: User
) -> None:
    changes: list[dict[str, Any]] = [
        {"email": "new"},
        {"first_name": "Augusta"},
        *({"metadata": struct(counts={f"key {number}": number})} for number in range(18)),
    ]

    at_once([partial(palaver.update_user, "u", **fields) for fields in changes]).all_succeeded()

    changed = palaver.get_user("u")
    assert (changed.email, changed.first_name, changed.last_name) == ("new", "Augusta", "Lovelace")
    counts = {f"key {number}": number for number in range(18)}
    assert changed.metadata["counts"] == struct(**counts)
