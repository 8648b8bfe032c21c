"""A credential that is bound to a user, and users who are listed and forgotten."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, GetSessionRequest
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    ListAllUsersRequest,
    ListUsersRequest,
)
from palaver_server.auth.roles import Role
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused
from tests.support.concurrency import Connection


@pytest.fixture
def palaver(start_server: StartServer, keys_file: KeysFile) -> Iterator[Client]:
    """A writer, bound to nobody, on a server where Ada has a key too."""
    writer = keys_file.add(Role.WRITER)
    keys_file.add(Role.WRITER, "ada")
    server = start_server(credentials=keys_file.path)
    with caller(server.address, writer) as client:
        yield client


@pytest.fixture
def ada(palaver: Client, keys_file: KeysFile) -> Iterator[Client]:
    """Ada, bound to herself."""
    with caller(palaver.address, keys_file.keys[1]) as client:
        yield client


WITHOUT_ID, WITH_ID = Message(role="user"), Message(role="user", message_id="m")


def add(client: Client, session_id: str, message: Message) -> Any:
    return client.memory.AddMemory(AddMemoryRequest(session_id=session_id, messages=[message]))


def test_a_bound_caller_is_the_only_user_in_its_listings(palaver: Client, ada: Client) -> None:
    for user_id in ("theirs", "ada", "ada "):
        palaver.users.AddUser(AddUserRequest(user_id=user_id))

    page = ada.users.ListUsers(ListUsersRequest(limit=1))
    (chunk,) = ada.users.ListAllUsers(ListAllUsersRequest(chunk_size=1))

    assert [user.user_id for user in page.users] == ["ada"]
    assert page.next_cursor == 0
    assert chunk.users == page.users


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_a_bound_caller_may_have_itself_forgotten_and_start_anew(
    palaver: Client, ada: Client, message: Message
) -> None:
    palaver.add("theirs", "hello", user_id="theirs")
    ada.add("s", "mine")

    assert ada.users.DeleteUser(DeleteUserRequest(user_id="ada")).sessions_deleted == 1
    assert add(ada, "s", message).session_created

    request = GetSessionRequest(session_id="s")
    assert palaver.sessions.GetSession(request).user_id == "ada"
    theirs = palaver.sessions.GetSession(GetSessionRequest(session_id="theirs"))
    assert theirs.user_id == "theirs"


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_a_session_that_was_forgotten_with_another_user_is_not_the_callers_to_start_anew(
    palaver: Client, ada: Client, database: Connection, message: Message
) -> None:
    palaver.add("s", "hello", user_id="theirs")
    palaver.users.DeleteUser(DeleteUserRequest(user_id="theirs"))
    every_row = "SELECT s::text FROM sessions s UNION ALL SELECT u::text FROM users u"
    before = database.execute(every_row).fetchall()

    with refused(grpc.StatusCode.NOT_FOUND):
        add(ada, "s", message)
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        ada.sessions.AddSession(AddSessionRequest(session_id="s"))

    assert database.execute(every_row).fetchall() == before
