"""UserService.ListUsers and ListAllUsers: pages and chunks, their order, and their size."""

from collections.abc import Iterable

import pytest

from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    ListAllUsersResponse,
    ListUsersRequest,
    ListUsersResponse,
)
from tests.support.client import MAX_RESPONSE_BYTES, Client, struct
from tests.support.concurrency import Connection


def ids(parts: Iterable[ListUsersResponse | ListAllUsersResponse]) -> list[list[str]]:
    return [[user.user_id for user in part.users] for part in parts]


# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [(False, [["e", "a"], ["d", "b"], ["c"]]), (True, [["c", "b"], ["d", "a"], ["e"]])],
)
def test_list_users_pages_are_in_order_of_creation_or_reversed(
    five: Client, expected: list[list[str]], *, newest_first: bool
) -> None:
    pages = list(five.pages(ListUsersRequest(limit=2, newest_first=newest_first)))
    chunks = five.list_all_users(chunk_size=2, newest_first=newest_first)

    assert ids(pages) == ids(chunks) == expected
    assert pages[0].next_cursor == pages[0].users[-1].id
    assert all(chunk.next_cursor == chunk.users[-1].id for chunk in chunks)


def test_list_users_returns_whole_users(palaver: Client) -> None:
    request = AddUserRequest(
        user_id="u", email="e", first_name="f", last_name="l", metadata=struct(a=1)
    )
    added = palaver.users.AddUser(request)

    (page,) = palaver.pages(ListUsersRequest())
    (chunk,) = palaver.list_all_users()
    assert list(page.users) == list(chunk.users) == [added]


def test_list_users_deleted_users_are_left_out_and_new_one_is_last(five: Client) -> None:
    for user_id in "abe":
        five.delete_user(user_id)
    five.add_user("e")
    five.add_session("s", user_id="a")

    assert (
        ids(five.pages(ListUsersRequest())) == ids(five.list_all_users()) == [["d", "c", "e", "a"]]
    )


def test_list_users_without_users_returns_empty_page(palaver: Client) -> None:
    assert list(palaver.pages(ListUsersRequest())) == [ListUsersResponse()]
    assert palaver.list_all_users() == []


# --- Limits ------------------------------------------------------------------------------------


def test_list_users_pages_default_to_100_and_reach_1000(
    palaver: Client, database: Connection
) -> None:
    database.execute("INSERT INTO users (user_id) SELECT generate_series(1, 1001)")

    assert [len(names) for names in ids(palaver.pages(ListUsersRequest(limit=1000)))] == [1000, 1]
    assert len(next(palaver.pages(ListUsersRequest())).users) == 100
    assert [len(names) for names in ids(palaver.list_all_users())] == [100] * 10 + [1]


# Each 64 KiB as JSON, and 352 KiB as a Struct.
ADD_LARGE_USERS = """
    INSERT INTO users (user_id, metadata)
    SELECT number, jsonb_build_object('list', array_fill(1, ARRAY[32760]))
    FROM generate_series(1, 40) AS number
"""


def test_list_users_pages_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    database.execute(ADD_LARGE_USERS)

    for parts in (
        list(palaver.pages(ListUsersRequest(limit=1000))),
        palaver.list_all_users(chunk_size=1000),
    ):
        assert [int(name) for names in ids(parts) for name in names] == list(range(1, 41))
        assert max(part.ByteSize() for part in parts) < MAX_RESPONSE_BYTES


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
