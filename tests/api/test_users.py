"""UserService: what adding and getting a user promise, and where bare users come from."""

from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ResourceInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_pb2 import Session, SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from tests.support.client import Client, refused, struct

ADA = AddUserRequest(
    user_id="ada",
    email="ada@example.com",
    first_name="Ada",
    last_name="Lovelace",
    metadata=struct(plan="pro"),
)


def get(palaver: Client, user_id: str) -> User:
    return palaver.users.GetUser(GetUserRequest(user_id=user_id))


def user_ids(palaver: Client) -> list[str]:
    return [user.user_id for user in palaver.users.ListUsers(ListUsersRequest()).users]


def is_bare(user: User) -> bool:
    return not (user.email or user.first_name or user.last_name or user.metadata.fields)


def add_session(palaver: Client, session_id: str, user_id: str = "") -> Session:
    return palaver.sessions.AddSession(AddSessionRequest(session_id=session_id, user_id=user_id))


def test_an_added_user_is_got_as_it_was_added(palaver: Client) -> None:
    added = palaver.users.AddUser(ADA)

    assert (added.user_id, added.email) == ("ada", "ada@example.com")
    assert (added.first_name, added.last_name) == ("Ada", "Lovelace")
    assert added.metadata == struct(plan="pro")
    assert added.created_at == added.updated_at
    assert added.id > 0
    assert get(palaver, "ada") == added


def test_all_but_the_id_is_optional(palaver: Client) -> None:
    added = palaver.users.AddUser(AddUserRequest(user_id="u"))

    assert is_bare(added)
    assert get(palaver, "u") == added


def test_positions_grow_in_the_order_of_creation(palaver: Client) -> None:
    first = palaver.users.AddUser(AddUserRequest(user_id="c"))
    add_session(palaver, "s", "a")
    last = palaver.users.AddUser(AddUserRequest(user_id="b"))

    assert first.id < get(palaver, "a").id < last.id


@pytest.mark.parametrize("fields", [{}, {"email": "x"}], ids=["with nothing", "with something"])
def test_a_user_that_was_filled_in_cannot_be_added(palaver: Client, fields: dict[str, Any]) -> None:
    added = palaver.users.AddUser(AddUserRequest(user_id="ada", **fields))

    with refused(grpc.StatusCode.ALREADY_EXISTS) as refusal:
        palaver.users.AddUser(ADA)

    info = refusal.detail(ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("palaver.v1.User", "ada")
    assert get(palaver, "ada") == added


@pytest.mark.parametrize("request_type", [GetUserRequest, UpdateUserRequest, DeleteUserRequest])
def test_an_unknown_or_deleted_user_is_not_found(palaver: Client, request_type: Any) -> None:
    palaver.users.AddUser(AddUserRequest(user_id="deleted"))
    palaver.users.DeleteUser(DeleteUserRequest(user_id="deleted"))

    for user_id in ("unknown", "deleted"):
        with refused(grpc.StatusCode.NOT_FOUND) as refusal:
            palaver.send(request_type(user_id=user_id))

        info = refusal.detail(ResourceInfo)
        assert (info.resource_type, info.resource_name) == ("palaver.v1.User", user_id)


MESSAGE = Message(message_id="m", role="user")

# The requests that may give a session to a user; the session "there" is there.
GIVE: dict[str, Any] = {
    "AddSession": AddSessionRequest(session_id="new", user_id="u"),
    "UpdateSession": UpdateSessionRequest(session_id="there", user_id="u"),
    "AddMemory": AddMemoryRequest(session_id="new", user_id="u", messages=[Message(role="user")]),
    "AddMemory with ids": AddMemoryRequest(session_id="new", user_id="u", messages=[MESSAGE]),
    "AddMemory that expects": AddMemoryRequest(
        session_id="new", user_id="u", messages=[Message(role="user")], expected_last_sequence=0
    ),
}


@pytest.mark.parametrize("way", GIVE)
def test_a_session_that_names_an_unknown_user_creates_a_bare_one(palaver: Client, way: str) -> None:
    add_session(palaver, "there")

    palaver.send(GIVE[way])

    user = get(palaver, "u")
    assert is_bare(user)
    assert user.created_at == user.updated_at
    of_user = ListSessionsRequest(filter=SessionFilter(user_id="u"))
    (session,) = palaver.sessions.ListSessions(of_user).sessions
    assert session.session_id == GIVE[way].session_id


@pytest.mark.parametrize("way", GIVE)
def test_a_session_that_names_a_known_user_does_not_change_it(palaver: Client, way: str) -> None:
    add_session(palaver, "there")
    added = palaver.users.AddUser(AddUserRequest(user_id="u", email="u@example.com"))

    palaver.send(GIVE[way])

    assert get(palaver, "u") == added


IN_VAIN: dict[str, tuple[Any, grpc.StatusCode | None]] = {
    "AddSession of one that is there": (
        AddSessionRequest(session_id="there", user_id="u"),
        grpc.StatusCode.ALREADY_EXISTS,
    ),
    "UpdateSession of one that is not there": (
        UpdateSessionRequest(session_id="unknown", user_id="u"),
        grpc.StatusCode.NOT_FOUND,
    ),
    "UpdateSession beyond the limits": (
        UpdateSessionRequest(session_id="there", user_id="u", metadata=struct(b="x" * 40_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
    ),
    "AddMemory that expects otherwise": (
        AddMemoryRequest(
            session_id="new", user_id="u", messages=[MESSAGE], expected_last_sequence=1
        ),
        grpc.StatusCode.ABORTED,
    ),
    "AddMemory to one that is there": (
        AddMemoryRequest(session_id="there", user_id="u", messages=[Message(role="user")]),
        None,
    ),
    "AddMemory with ids to one that is there": (
        AddMemoryRequest(session_id="there", user_id="u", messages=[MESSAGE]),
        None,
    ),
    "AddMemory to a deleted one": (
        AddMemoryRequest(session_id="deleted", user_id="u", messages=[Message(role="user")]),
        None,
    ),
    "AddMemory with ids to a deleted one": (
        AddMemoryRequest(session_id="deleted", user_id="u", messages=[MESSAGE]),
        None,
    ),
}


@pytest.mark.parametrize("way", IN_VAIN)
def test_who_names_a_user_in_vain_creates_none(palaver: Client, way: str) -> None:
    palaver.sessions.AddSession(
        AddSessionRequest(session_id="there", metadata=struct(a="x" * 40_000))
    )
    add_session(palaver, "deleted", "its user")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="deleted"))
    request, code = IN_VAIN[way]

    if code:
        with refused(code):
            palaver.send(request)
    else:
        palaver.send(request)

    assert user_ids(palaver) == ["its user"]


def test_a_bare_user_is_filled_in_once(palaver: Client) -> None:
    add_session(palaver, "s", "ada")
    bare = get(palaver, "ada")

    filled_in = palaver.users.AddUser(ADA)

    assert (filled_in.id, filled_in.created_at) == (bare.id, bare.created_at)
    assert filled_in.updated_at.ToNanoseconds() > bare.updated_at.ToNanoseconds()
    assert (filled_in.email, filled_in.metadata) == (ADA.email, ADA.metadata)
    assert get(palaver, "ada") == filled_in
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.users.AddUser(ADA)


def test_a_bare_user_is_filled_in_by_an_update_too(palaver: Client) -> None:
    add_session(palaver, "s", "ada")

    palaver.users.UpdateUser(UpdateUserRequest(user_id="ada", email="other@example.com"))

    with refused(grpc.StatusCode.ALREADY_EXISTS):
        palaver.users.AddUser(ADA)
    assert get(palaver, "ada").email == "other@example.com"


def test_a_user_stays_when_its_last_session_goes(palaver: Client) -> None:
    add_session(palaver, "deleted", "u")
    add_session(palaver, "detached", "u")
    before = get(palaver, "u")

    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="deleted"))
    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="detached", user_id=""))

    assert get(palaver, "u") == before


def test_a_session_moves_from_user_to_user(palaver: Client) -> None:
    add_session(palaver, "s", "old")

    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="s", user_id="new"))
    palaver.users.DeleteUser(DeleteUserRequest(user_id="old"))

    session = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    assert session.user_id == "new"
    assert user_ids(palaver) == ["new"]
