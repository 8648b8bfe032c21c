"""UserFilter, which narrows ListUsers and ListAllUsers."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.user_pb2 import UserFilter
from palaver.v1.user_service_pb2 import ListAllUsersRequest, ListUsersRequest
from tests.support.client import Client, refused, struct, violations


def listed(palaver: Client, **fields: Any) -> list[str]:
    """Return the ids of the users; page and stream must agree, in both orders."""
    narrowed = UserFilter(**fields)
    page = palaver.list_users(filter=narrowed)
    reverse = palaver.list_users(filter=narrowed, newest_first=True)
    stream = palaver.list_all_users(filter=narrowed)
    user_ids = [user.user_id for user in page.users]
    assert [user.user_id for user in reversed(reverse.users)] == user_ids
    assert [user.user_id for chunk in stream for user in chunk.users] == user_ids
    return user_ids


# --- Contract ----------------------------------------------------------------------------------


def test_user_filter_prefix_takes_every_character_literally(palaver: Client) -> None:
    for user_id in ("a%", "a%/1", "ab", "a_/1", "A%", "é/1"):
        palaver.add_user(user_id)

    assert listed(palaver, user_id_prefix="a%") == ["a%", "a%/1"]
    assert listed(palaver, user_id_prefix="a_") == ["a_/1"]
    assert listed(palaver, user_id_prefix="é") == ["é/1"]
    assert len(listed(palaver, user_id_prefix="")) == 6


def test_user_filter_user_ids_keep_the_order_of_the_listing(palaver: Client) -> None:
    for user_id in "cab":
        palaver.add_user(user_id)
    palaver.delete_user("a")

    assert listed(palaver, user_ids=["b", "c", "a", "nobody", "b"]) == ["c", "b"]
    assert listed(palaver, user_ids=[]) == ["c", "b"]


def test_user_filter_email_is_compared_byte_by_byte(palaver: Client) -> None:
    palaver.add_user("a", email="ada@example.com")
    palaver.add_user("b", email="Ada@example.com")
    palaver.add_user("c", email="ada@example.com")
    palaver.add_session("s", user_id="placeholder")

    assert listed(palaver, email="ada@example.com") == ["a", "c"]
    assert listed(palaver, email="ada@example") == []
    assert listed(palaver, email="") == ["a", "b", "c", "placeholder"]


def test_user_filter_all_conditions_must_hold(palaver: Client) -> None:
    for user_id in ("a1", "a2", "a3", "b1"):
        palaver.add_user(user_id, email="e", metadata=struct(plan="pro"))
    palaver.update_user("a1", email="other")
    palaver.update_user("a2", metadata=struct(plan="free"))

    assert listed(palaver, metadata='$.plan == "pro"') == ["a1", "a3", "b1"]
    assert listed(palaver, metadata='$.plan == "pro"', email="e", user_id_prefix="a") == ["a3"]
    assert listed(palaver, metadata='$.plan == "pro"', email="e", user_ids=["a1", "a2"]) == []


def test_user_filter_pages_continue_within_the_filter(palaver: Client) -> None:
    for number in range(6):
        palaver.add_user(str(number), email="odd" if number % 2 else "even")
    request = ListUsersRequest(limit=2, filter=UserFilter(email="odd"))

    pages = [[user.user_id for user in page.users] for page in palaver.pages(request)]

    assert pages == [["1", "3"], ["5"]]


# --- Limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_type", [ListUsersRequest, ListAllUsersRequest])
def test_user_filter_invalid_path_is_refused_with_reason(
    palaver: Client, request_type: type[Any]
) -> None:
    palaver.add_user("u", metadata=struct(a=1))

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        palaver.send(request_type(filter=UserFilter(metadata="$.a ==")))

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "filter.metadata"
    assert "syntax error" in violation.description


def test_user_filter_all_invalid_fields_are_named_together(palaver: Client) -> None:
    narrowed = UserFilter(
        user_id_prefix="\0", user_ids=["u", ""], email="x" * 321, metadata="x" * 4097
    )
    request = ListUsersRequest(limit=1001, cursor=-1, filter=narrowed)

    assert violations(lambda: palaver.users.ListUsers(request)) == [
        "limit", "cursor", "filter.user_id_prefix", "filter.user_ids[1]", "filter.email",
        "filter.metadata",
    ]  # fmt: skip


# --- Access ------------------------------------------------------------------------------------


def test_user_filter_of_scoped_caller_finds_only_itself(admin: Client, scoped: Client) -> None:
    for user_id in ("ada", "ada 2", "bob"):
        admin.add_user(user_id, email="e", metadata=struct(plan="pro"))

    assert listed(scoped, user_id_prefix="ad") == ["ada"]
    assert listed(scoped, user_ids=["bob", "ada"]) == ["ada"]
    assert listed(scoped, email="e") == ["ada"]
    assert listed(scoped, metadata='$.plan == "pro"') == ["ada"]
    assert listed(scoped, user_ids=["bob"]) == []


def test_user_filter_path_that_fails_on_other_users_shows_nothing(
    admin: Client, scoped: Client
) -> None:
    admin.add_user("ada", metadata=struct(at="2024-05-01T00:00:00+01"))
    admin.add_user("bob", metadata=struct(at="2024-05-01"))
    path = '$.at.datetime() < "2024-05-02T00:00:00+01".datetime()'

    assert listed(scoped, metadata=path) == ["ada"]
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        admin.list_users(filter=UserFilter(metadata=path))
