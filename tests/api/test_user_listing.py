"""UserService.ListUsers and ListAllUsers: pages and chunks, their order, and their size."""

from collections.abc import Iterable, Iterator
from typing import Any

import psycopg
import pytest

from palaver.v1.session_service_pb2 import AddSessionRequest
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    ListAllUsersRequest,
    ListAllUsersResponse,
    ListUsersRequest,
    ListUsersResponse,
)
from tests.support.client import Client, struct

MAX_RESPONSE_BYTES = 4 * 1024 * 1024

# Each 64 KiB as JSON, and 352 KiB as a Struct.
ADD_LARGE_USERS = """
    INSERT INTO users (user_id, metadata)
    SELECT number, jsonb_build_object('list', array_fill(1, ARRAY[32760]))
    FROM generate_series(1, 40) AS number
"""


@pytest.fixture
def five(palaver: Client) -> Client:
    """A client of a server with five users, of whom one is bare."""
    for user_id in "ead":
        palaver.users.AddUser(AddUserRequest(user_id=user_id))
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="b"))
    palaver.users.AddUser(AddUserRequest(user_id="c"))
    return palaver


def pages_of(palaver: Client, **fields: Any) -> Iterator[ListUsersResponse]:
    request = ListUsersRequest(**fields)
    while True:
        page = palaver.users.ListUsers(request)
        yield page
        if page.next_cursor == 0:
            return
        request.cursor = page.next_cursor


def chunks_of(palaver: Client, **fields: Any) -> list[ListAllUsersResponse]:
    return list(palaver.users.ListAllUsers(ListAllUsersRequest(**fields)))


def ids(parts: Iterable[ListUsersResponse | ListAllUsersResponse]) -> list[list[str]]:
    return [[user.user_id for user in part.users] for part in parts]


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [(False, [["e", "a"], ["d", "b"], ["c"]]), (True, [["c", "b"], ["d", "a"], ["e"]])],
)
def test_users_are_listed_in_the_order_of_creation_or_the_other_way_round(
    five: Client, expected: list[list[str]], *, newest_first: bool
) -> None:
    pages = list(pages_of(five, limit=2, newest_first=newest_first))
    chunks = chunks_of(five, chunk_size=2, newest_first=newest_first)

    assert ids(pages) == ids(chunks) == expected
    assert pages[0].next_cursor == pages[0].users[-1].id
    assert all(chunk.next_cursor == chunk.users[-1].id for chunk in chunks)


def test_a_stream_is_resumed_from_the_cursor_of_any_chunk(five: Client) -> None:
    first, second, _ = chunks_of(five, chunk_size=2)

    assert ids(chunks_of(five, cursor=first.next_cursor)) == [["d", "b", "c"]]
    assert ids(chunks_of(five, cursor=second.next_cursor)) == [["c"]]


def test_a_listed_user_is_whole(palaver: Client) -> None:
    request = AddUserRequest(
        user_id="u", email="e", first_name="f", last_name="l", metadata=struct(a=1)
    )
    added = palaver.users.AddUser(request)

    (page,) = pages_of(palaver)
    (chunk,) = chunks_of(palaver)
    assert list(page.users) == list(chunk.users) == [added]


def test_deleted_users_are_not_listed_and_one_that_starts_anew_is_the_last(five: Client) -> None:
    for user_id in "abe":
        five.users.DeleteUser(DeleteUserRequest(user_id=user_id))
    five.users.AddUser(AddUserRequest(user_id="e"))
    five.sessions.AddSession(AddSessionRequest(session_id="s", user_id="a"))

    assert ids(pages_of(five)) == ids(chunks_of(five)) == [["d", "c", "e", "a"]]


def test_there_may_be_nothing_to_list(palaver: Client) -> None:
    assert list(pages_of(palaver)) == [ListUsersResponse()]
    assert chunks_of(palaver) == []


def test_a_page_has_at_most_as_many_users_as_it_may(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute("INSERT INTO users (user_id) SELECT generate_series(1, 1001)")

    assert [len(names) for names in ids(pages_of(palaver, limit=1000))] == [1000, 1]
    assert len(next(pages_of(palaver)).users) == 100
    assert [len(names) for names in ids(chunks_of(palaver))] == [100] * 10 + [1]


def test_pages_and_chunks_of_large_metadata_are_cut_short_and_lose_nothing(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute(ADD_LARGE_USERS)

    for parts in (list(pages_of(palaver, limit=1000)), chunks_of(palaver, chunk_size=1000)):
        assert [int(name) for names in ids(parts) for name in names] == list(range(1, 41))
        assert max(part.ByteSize() for part in parts) < MAX_RESPONSE_BYTES


def test_the_longest_names_fit_a_page(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    # In bytes: 1,024 of an id, 320 of an address, 1,024 of each name. 1,000 are 3.2 MiB.
    database.execute(
        "INSERT INTO users (user_id, email, first_name, last_name)"
        " SELECT rpad(number::text, 1024, 'x'), repeat('x', 320), repeat('😀', 256),"
        " repeat('😀', 256) FROM generate_series(1, 2000) AS number"
    )

    pages = list(pages_of(palaver, limit=1000))

    assert [len(names) for names in ids(pages)] == [1000, 1000]
    assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
