"""UserService.ListUsers: pages, their order, and their size."""

from collections.abc import Iterable

import pytest

from palaver.v1.user_service_pb2 import ListUsersRequest, ListUsersResponse
from tests.support.client import MAX_RESPONSE_BYTES, Client, struct
from tests.support.concurrency import Connection
from tests.support.rows import insert_large_users


def ids(pages: Iterable[ListUsersResponse]) -> list[list[str]]:
    return [[user.user_id for user in page.users] for page in pages]


# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [(False, [["e", "a"], ["d", "b"], ["c"]]), (True, [["c", "b"], ["d", "a"], ["e"]])],
)
def test_list_users_pages_are_in_order_of_creation_or_reversed(
    five: Client, expected: list[list[str]], *, newest_first: bool
) -> None:
    pages = list(five.pages(ListUsersRequest(limit=2, newest_first=newest_first)))

    assert ids(pages) == expected
    assert pages[0].next_cursor == pages[0].users[-1].id


def test_list_users_returns_whole_users(palaver: Client) -> None:
    added = palaver.add_user("u", email="e", first_name="f", last_name="l", metadata=struct(a=1))

    (page,) = palaver.pages(ListUsersRequest())

    assert list(page.users) == [added]


def test_list_users_deleted_users_are_left_out_and_new_ones_are_last(five: Client) -> None:
    for user_id in "abe":
        five.delete_user(user_id)
    five.add_user("e")
    five.add_session("s", user_id="a")

    assert ids(five.pages(ListUsersRequest())) == [["d", "c", "e", "a"]]


def test_list_users_without_users_returns_empty_page(palaver: Client) -> None:
    assert list(palaver.pages(ListUsersRequest())) == [ListUsersResponse()]


# --- Limits ------------------------------------------------------------------------------------


def test_list_users_pages_default_to_100_and_reach_1000(
    palaver: Client, database: Connection
) -> None:
    database.execute("INSERT INTO users (user_id) SELECT generate_series(1, 1001)")

    assert [len(names) for names in ids(palaver.pages(ListUsersRequest(limit=1000)))] == [1000, 1]
    assert len(next(palaver.pages(ListUsersRequest())).users) == 100


@pytest.mark.slow
def test_list_users_pages_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    insert_large_users(database, 40)

    pages = list(palaver.pages(ListUsersRequest(limit=1000)))

    assert [int(name) for names in ids(pages) for name in names] == list(range(1, 41))
    assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES


def test_list_users_page_of_1000_longest_users_fits_response(
    palaver: Client, database: Connection
) -> None:
    # Bytes: 1,024 for the id, 320 for the address, 1,024 for each name. 1,000 users: 3.2 MiB.
    database.execute(
        "INSERT INTO users (user_id, email, first_name, last_name)"
        " SELECT rpad(number::text, 1024, 'x'), repeat('x', 320), repeat('😀', 256),"
        " repeat('😀', 256) FROM generate_series(1, 2000) AS number"
    )

    pages = list(palaver.pages(ListUsersRequest(limit=1000)))

    assert [len(names) for names in ids(pages)] == [1000, 1000]
    assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES


# --- Access ------------------------------------------------------------------------------------


def test_list_users_scoped_caller_finds_only_itself(admin: Client, scoped: Client) -> None:
    for user_id in ("theirs", "ada", "ada "):
        admin.add_user(user_id)

    page = scoped.list_users(limit=1)

    assert [user.user_id for user in page.users] == ["ada"]
    assert page.next_cursor == 0
