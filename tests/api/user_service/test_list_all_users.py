"""UserService.ListAllUsers: chunks, their order and size, and resuming."""

from collections.abc import Iterable

import pytest

from palaver.v1.user_service_pb2 import ListAllUsersResponse
from tests.support.client import MAX_RESPONSE_BYTES, Client, struct
from tests.support.concurrency import Connection
from tests.support.rows import insert_large_users


def ids(chunks: Iterable[ListAllUsersResponse]) -> list[list[str]]:
    return [[user.user_id for user in chunk.users] for chunk in chunks]


# --- Contract ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("newest_first", "expected"),
    [(False, [["e", "a"], ["d", "b"], ["c"]]), (True, [["c", "b"], ["d", "a"], ["e"]])],
)
def test_list_all_users_chunks_are_in_order_of_creation_or_reversed(
    five: Client, expected: list[list[str]], *, newest_first: bool
) -> None:
    chunks = five.list_all_users(chunk_size=2, newest_first=newest_first)

    assert ids(chunks) == expected
    assert all(chunk.next_cursor == chunk.users[-1].id for chunk in chunks)


def test_list_all_users_resumes_from_any_cursor(five: Client) -> None:
    first, second, _ = five.list_all_users(chunk_size=2)

    assert ids(five.list_all_users(cursor=first.next_cursor)) == [["d", "b", "c"]]
    assert ids(five.list_all_users(cursor=second.next_cursor)) == [["c"]]


def test_list_all_users_returns_whole_users(palaver: Client) -> None:
    added = palaver.add_user("u", email="e", first_name="f", last_name="l", metadata=struct(a=1))

    (chunk,) = palaver.list_all_users()

    assert list(chunk.users) == [added]


def test_list_all_users_deleted_users_are_left_out_and_new_ones_are_last(five: Client) -> None:
    for user_id in "abe":
        five.delete_user(user_id)
    five.add_user("e")
    five.add_session("s", user_id="a")

    assert ids(five.list_all_users()) == [["d", "c", "e", "a"]]


def test_list_all_users_without_users_sends_no_chunk(palaver: Client) -> None:
    assert palaver.list_all_users() == []


# --- Limits ------------------------------------------------------------------------------------


def test_list_all_users_chunks_default_to_100(palaver: Client, database: Connection) -> None:
    database.execute("INSERT INTO users (user_id) SELECT generate_series(1, 1001)")

    assert [len(names) for names in ids(palaver.list_all_users())] == [100] * 10 + [1]


@pytest.mark.slow
def test_list_all_users_chunks_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    insert_large_users(database, 40)

    chunks = palaver.list_all_users(chunk_size=1000)

    assert [int(name) for names in ids(chunks) for name in names] == list(range(1, 41))
    assert max(chunk.ByteSize() for chunk in chunks) < MAX_RESPONSE_BYTES


# --- Access ------------------------------------------------------------------------------------


def test_list_all_users_scoped_caller_finds_only_itself(admin: Client, scoped: Client) -> None:
    for user_id in ("theirs", "ada", "ada "):
        admin.add_user(user_id)

    (chunk,) = scoped.list_all_users(chunk_size=1)

    assert [user.user_id for user in chunk.users] == ["ada"]
