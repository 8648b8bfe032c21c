"""UserService.ListAllUsers: chunks and resuming."""

from collections.abc import Iterable

from palaver.v1.user_service_pb2 import ListAllUsersResponse, ListUsersResponse
from tests.support.client import Client

# --- Contract ----------------------------------------------------------------------------------


def ids(parts: Iterable[ListUsersResponse | ListAllUsersResponse]) -> list[list[str]]:
    return [[user.user_id for user in part.users] for part in parts]


def test_list_all_users_resumes_from_any_cursor(five: Client) -> None:
    first, second, _ = five.list_all_users(chunk_size=2)

    assert ids(five.list_all_users(cursor=first.next_cursor)) == [["d", "b", "c"]]
    assert ids(five.list_all_users(cursor=second.next_cursor)) == [["c"]]
