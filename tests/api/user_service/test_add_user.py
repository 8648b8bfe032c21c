"""UserService.AddUser: new users, placeholders that are completed, and deleted ids."""

from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import AddUserRequest
from tests.support.client import Client, refused, struct
from tests.support.concurrency import at_once

# --- Contract ----------------------------------------------------------------------------------


ADA = AddUserRequest(
    user_id="ada",
    email="ada@example.com",
    first_name="Ada",
    last_name="Lovelace",
    metadata=struct(plan="pro"),
)


def test_add_user_returns_user_as_added(palaver: Client) -> None:
    added = palaver.users.AddUser(ADA)

    assert (added.user_id, added.email) == ("ada", "ada@example.com")
    assert (added.first_name, added.last_name) == ("Ada", "Lovelace")
    assert added.metadata == struct(plan="pro")
    assert added.created_at == added.updated_at
    assert added.id > 0
    assert palaver.get_user("ada") == added


def is_placeholder(user: User) -> bool:
    return not (user.email or user.first_name or user.last_name or user.metadata.fields)


def test_add_user_only_user_id_is_required(palaver: Client) -> None:
    added = palaver.add_user("u")

    assert is_placeholder(added)
    assert palaver.get_user("u") == added


def test_add_user_ids_grow_in_order_of_creation(palaver: Client) -> None:
    first = palaver.add_user("c")
    palaver.add_session("s", user_id="a")
    last = palaver.add_user("b")

    assert first.id < palaver.get_user("a").id < last.id


@pytest.mark.parametrize("fields", [{}, {"email": "x"}], ids=["with nothing", "with something"])
def test_add_user_complete_user_already_exists(palaver: Client, fields: dict[str, Any]) -> None:
    added = palaver.add_user("ada", **fields)

    with refused(grpc.StatusCode.ALREADY_EXISTS) as refusal:
        palaver.users.AddUser(ADA)

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.User", "ada")
    assert palaver.get_user("ada") == added


def test_add_user_placeholder_is_completed_once(palaver: Client) -> None:
    palaver.add_session("s", user_id="ada")
    placeholder = palaver.get_user("ada")

    completed = palaver.users.AddUser(ADA)

    assert (completed.id, completed.created_at) == (placeholder.id, placeholder.created_at)
    assert completed.updated_at.ToNanoseconds() > placeholder.updated_at.ToNanoseconds()
    assert (completed.email, completed.metadata) == (ADA.email, ADA.metadata)
    assert palaver.get_user("ada") == completed
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.users.AddUser(ADA)


def test_add_user_placeholder_completed_by_update_already_exists(palaver: Client) -> None:
    palaver.add_session("s", user_id="ada")

    palaver.update_user("ada", email="other@example.com")

    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.users.AddUser(ADA)
    assert palaver.get_user("ada").email == "other@example.com"


@pytest.mark.parametrize("purged", [False, True])
def test_add_user_deleted_id_starts_over(palaver: Client, ada: User, *, purged: bool) -> None:
    deleted = palaver.delete_user("ada")
    if purged:
        palaver.purge()

    recreated = palaver.add_user("ada", first_name="Ada")

    assert recreated.id > ada.id
    assert recreated.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert recreated.updated_at == recreated.created_at
    assert (recreated.email, recreated.first_name, recreated.metadata) == ("", "Ada", struct())
    assert palaver.session_ids(user_id="ada") == []
    assert palaver.delete_user("ada").sessions_deleted == 0


# --- Concurrency -------------------------------------------------------------------------------


NOT_FOUND, ALREADY_EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS


@pytest.mark.parametrize("before", ["unknown", "placeholder", "deleted"])
def test_add_user_simultaneous_calls_succeed_once(callers: list[Client], before: str) -> None:
    for number in range(8):
        user_id = f"u{number}"
        if before != "unknown":
            callers[0].add(f"s{number}", "hello", user_id=user_id)
        if before == "deleted":
            callers[0].delete_user(user_id)

        outcomes = at_once(
            [
                partial(caller.users.AddUser, AddUserRequest(user_id=user_id, email=f"{number}"))
                for number, caller in enumerate(callers)
            ]
        )

        assert len(outcomes.results) == 1
        assert outcomes.refusals == {ALREADY_EXISTS: len(callers) - 1}
