"""UserService.UpdateUser: only what is given changes; metadata is merged or replaced."""

from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import AddUserRequest, GetUserRequest, UpdateUserRequest
from tests.support.client import Client, refused, struct
from tests.support.concurrency import at_once


@pytest.fixture
def added(palaver: Client) -> User:
    """The user `u`, with all fields."""
    return palaver.users.AddUser(
        AddUserRequest(
            user_id="u",
            email="ada@example.com",
            first_name="Ada",
            last_name="Lovelace",
            metadata=struct(plan="pro", address={"city": "Rome", "zip": "00100"}),
        )
    )


def update(palaver: Client, **fields: Any) -> User:
    return palaver.users.UpdateUser(UpdateUserRequest(user_id="u", **fields))


def get(palaver: Client) -> User:
    return palaver.users.GetUser(GetUserRequest(user_id="u"))


@pytest.mark.parametrize("field", ["email", "first_name", "last_name"])
@pytest.mark.parametrize("value", ["new", ""])
def test_only_what_is_given_changes(palaver: Client, added: User, field: str, value: str) -> None:
    updated = update(palaver, **{field: value})

    assert updated.updated_at.ToNanoseconds() > added.updated_at.ToNanoseconds()
    assert get(palaver) == updated
    expected = User()
    expected.CopyFrom(added)
    setattr(expected, field, value)
    expected.updated_at.CopyFrom(updated.updated_at)
    assert updated == expected


def test_metadata_merges_at_every_depth(palaver: Client, added: User) -> None:
    updated = update(palaver, metadata=struct(plan=None, address={"city": "Oslo"}, seats=3))

    assert updated.metadata == struct(address={"city": "Oslo", "zip": "00100"}, seats=3)
    assert (updated.email, updated.id) == (added.email, added.id)
    assert updated.created_at == added.created_at


def test_replace_metadata_replaces_it_whole_and_keeps_null(palaver: Client, added: User) -> None:
    updated = update(palaver, metadata=struct(a=None), replace_metadata=True)

    assert updated.metadata == struct(a=None)


def test_without_metadata_it_is_untouched(palaver: Client, added: User) -> None:
    updated = update(palaver, first_name="Augusta", replace_metadata=True)

    assert updated.metadata == added.metadata


def test_a_merge_beyond_the_limit_is_refused_and_changes_nothing(palaver: Client) -> None:
    palaver.users.AddUser(AddUserRequest(user_id="u", metadata=struct(a="x" * 40_000)))
    before = get(palaver)

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        update(palaver, metadata=struct(b="x" * 40_000), email="new")

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "metadata"
    assert get(palaver) == before


def test_changes_of_different_parts_at_once_all_survive(palaver: Client, added: User) -> None:
    changes: list[dict[str, Any]] = [
        {"email": "new"},
        {"first_name": "Augusta"},
        *({"metadata": struct(counts={f"key {number}": number})} for number in range(18)),
    ]

    at_once([partial(update, palaver, **fields) for fields in changes]).all_succeeded()

    user = get(palaver)
    assert (user.email, user.first_name, user.last_name) == ("new", "Augusta", "Lovelace")
    counts = {f"key {number}": number for number in range(18)}
    assert user.metadata["counts"] == struct(**counts)
