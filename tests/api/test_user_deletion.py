"""UserService.DeleteUser: the user is forgotten, with all sessions and messages, for good."""

from datetime import UTC
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
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
    DeleteUserResponse,
    GetUserRequest,
    ListUsersRequest,
)
from tests.support.client import Client, refused, struct

Database = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def ada(palaver: Client) -> User:
    """A user with the session `s` of two messages, and `before`, which is deleted already."""
    user = palaver.users.AddUser(
        AddUserRequest(user_id="ada", email="ada@example.com", metadata=struct(secret=1))
    )
    for session_id in ("s", "before"):
        palaver.sessions.AddSession(
            AddSessionRequest(session_id=session_id, user_id="ada", metadata=struct(secret=2))
        )
        palaver.add(session_id, "one", "two")
    delete_session(palaver, "before")
    return user


def delete_user(palaver: Client, user_id: str = "ada") -> DeleteUserResponse:
    return palaver.users.DeleteUser(DeleteUserRequest(user_id=user_id))


def delete_session(palaver: Client, session_id: str) -> None:
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))


def get_user(palaver: Client, user_id: str = "ada") -> User:
    return palaver.users.GetUser(GetUserRequest(user_id=user_id))


def get_session(palaver: Client, session_id: str) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id=session_id))


def sessions_of(palaver: Client, user_id: str) -> list[str]:
    request = ListSessionsRequest(filter=SessionFilter(user_id=user_id))
    return [session.session_id for session in palaver.sessions.ListSessions(request).sessions]


def contents(palaver: Client, session_id: str) -> list[str]:
    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id=session_id))
    return [message.content for message in memory.messages]


def purge(palaver: Client) -> PurgeDeletedResponse:
    *_, last = palaver.admin.PurgeDeleted(PurgeDeletedRequest(older_than=Duration()))
    return last


def test_a_user_its_sessions_and_their_messages_are_deleted_at_the_instant_that_is_returned(
    palaver: Client, ada: User, database: Database
) -> None:
    palaver.add("another", "one", user_id="ada")
    palaver.memory.DeleteMessages(DeleteMessagesRequest(session_id="another", last_n=1))

    deleted = delete_user(palaver)

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (2, 2)
    instant = deleted.deleted_at.ToDatetime(tzinfo=UTC)
    times = database.execute(
        "SELECT user_id, deleted_at = %(instant)s FROM users"
        " UNION ALL SELECT session_id, deleted_at = %(instant)s FROM sessions"
        " UNION ALL SELECT 'message of ' || session_id, deleted_at = %(instant)s FROM messages",
        {"instant": instant},
    ).fetchall()
    assert sorted(times) == [
        ("ada", True),
        ("another", True),
        ("before", False),  # what was deleted before keeps its time
        ("message of another", False),
        ("message of before", False),
        ("message of before", False),
        ("message of s", True),
        ("message of s", True),
        ("s", True),
    ]


def test_nothing_returns_what_was_deleted(palaver: Client, ada: User) -> None:
    delete_user(palaver)

    for request in (
        GetUserRequest(user_id="ada"),
        GetSessionRequest(session_id="s"),
        GetMemoryRequest(session_id="s"),
        StreamMessagesRequest(session_id="s"),
        UpdateSessionRequest(session_id="s", user_id="ada"),
        UpdateMessageRequest(session_id="s", message_id="m"),
    ):
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.send(request)
    assert sessions_of(palaver, "ada") == []
    assert not palaver.users.ListUsers(ListUsersRequest()).users


def test_others_are_left_alone(palaver: Client, ada: User) -> None:
    palaver.add("bob's", "one", user_id="bob")
    palaver.add("nobody's", "two")
    names = ("bob's", "nobody's")
    before = [get_session(palaver, name) for name in names], get_user(palaver, "bob")

    delete_user(palaver)

    after = [get_session(palaver, name) for name in names], get_user(palaver, "bob")
    assert after == before
    assert [contents(palaver, name) for name in names] == [["one"], ["two"]]


def test_a_session_that_left_the_user_stays(palaver: Client, ada: User) -> None:
    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="s", user_id=""))

    deleted = delete_user(palaver)

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)
    assert contents(palaver, "s") == ["one", "two"]


def test_a_user_without_sessions_is_deleted(palaver: Client) -> None:
    palaver.users.AddUser(AddUserRequest(user_id="u"))

    deleted = delete_user(palaver, "u")

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)


def test_a_bare_user_is_deleted(palaver: Client) -> None:
    palaver.add("s", "one", user_id="u")

    deleted = delete_user(palaver, "u")

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (1, 1)


@pytest.mark.parametrize("purged", [False, True])
def test_an_id_that_a_session_uses_again_starts_bare(
    palaver: Client, ada: User, *, purged: bool
) -> None:
    between = palaver.users.AddUser(AddUserRequest(user_id="between"))
    deleted = delete_user(palaver)
    if purged:
        purge(palaver)

    palaver.sessions.AddSession(AddSessionRequest(session_id="new", user_id="ada"))

    anew = get_user(palaver)
    assert anew.id > between.id
    assert anew.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert anew.updated_at == anew.created_at
    assert (anew.email, anew.metadata) == ("", struct())
    assert sessions_of(palaver, "ada") == ["new"]
    filled_in = palaver.users.AddUser(AddUserRequest(user_id="ada", email="new"))
    assert (filled_in.id, filled_in.email) == (anew.id, "new")


@pytest.mark.parametrize("purged", [False, True])
def test_an_id_that_is_added_again_has_nothing_of_the_old(
    palaver: Client, ada: User, *, purged: bool
) -> None:
    deleted = delete_user(palaver)
    if purged:
        purge(palaver)

    anew = palaver.users.AddUser(AddUserRequest(user_id="ada", first_name="Ada"))

    assert anew.id > ada.id
    assert anew.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert anew.updated_at == anew.created_at
    assert (anew.email, anew.first_name, anew.metadata) == ("", "Ada", struct())
    assert sessions_of(palaver, "ada") == []
    assert delete_user(palaver).sessions_deleted == 0


# How memory comes to a session: in one statement if it can, and under a lock.
WAYS = {
    "without ids": AddMemoryRequest(messages=[Message(role="user", content="new")]),
    "with ids": AddMemoryRequest(messages=[Message(message_id="m", role="user", content="new")]),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("session_id", ["s", "before"])
@pytest.mark.parametrize("user_id", ["", "ada", "bob"])
def test_memory_added_to_a_forgotten_session_starts_it_anew(
    palaver: Client, ada: User, way: str, session_id: str, user_id: str
) -> None:
    last = palaver.sessions.AddSession(AddSessionRequest(session_id="last"))
    deleted = delete_user(palaver)
    request = AddMemoryRequest(session_id=session_id, user_id=user_id)
    request.MergeFrom(WAYS[way])

    response = palaver.memory.AddMemory(request)

    assert (response.session_created, response.session_undeleted) == (True, False)
    assert [message.sequence for message in response.messages] == [3]
    session = get_session(palaver, session_id)
    assert (session.user_id, session.metadata) == (user_id, struct())
    assert session.id > last.id
    assert session.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert session.last_sequence == 3
    assert contents(palaver, session_id) == ["new"]
    if user_id:
        assert sessions_of(palaver, user_id) == [session_id]
    with refused(grpc.StatusCode.NOT_FOUND):
        get_user(palaver, "bob" if user_id == "ada" else "ada")


def test_a_forgotten_session_that_is_added_starts_anew(palaver: Client, ada: User) -> None:
    delete_user(palaver)

    anew = palaver.sessions.AddSession(AddSessionRequest(session_id="s", user_id="bob"))

    assert (anew.user_id, anew.metadata, anew.last_sequence) == ("bob", struct(), 2)
    assert contents(palaver, "s") == []


def test_a_session_that_started_anew_is_deleted_and_brought_back_as_any_other(
    palaver: Client, ada: User
) -> None:
    delete_user(palaver)
    palaver.sessions.AddSession(
        AddSessionRequest(session_id="s", user_id="bob", metadata=struct(kept=True))
    )
    delete_session(palaver, "s")

    response = palaver.add("s", "new")

    assert (response.session_created, response.session_undeleted) == (False, True)
    session = get_session(palaver, "s")
    assert (session.user_id, session.metadata) == ("bob", struct(kept=True))


def test_a_forgotten_session_keeps_the_sequence_that_is_expected(
    palaver: Client, ada: User
) -> None:
    delete_user(palaver)

    with refused(grpc.StatusCode.ABORTED) as refusal:
        palaver.add("s", "new", user_id="bob", expected_last_sequence=0)
    assert refusal.detail(ErrorInfo).metadata["last_sequence"] == "2"
    with refused(grpc.StatusCode.NOT_FOUND):
        get_user(palaver, "bob")

    assert palaver.add("s", "new", expected_last_sequence=2).session_created


def test_a_session_is_not_forgotten_with_the_user_whom_it_left(palaver: Client, ada: User) -> None:
    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="s", user_id="bob"))
    delete_session(palaver, "s")
    delete_user(palaver)

    response = palaver.add("s", "new")

    assert response.session_undeleted
    session = get_session(palaver, "s")
    assert (session.user_id, session.metadata) == ("bob", struct(secret=2))
    assert get_user(palaver, "bob")


def test_a_purge_removes_a_deleted_user_with_all_it_had(
    palaver: Client, ada: User, database: Database
) -> None:
    palaver.add("bob's", "one", user_id="bob")
    delete_user(palaver)

    first, *_, last = palaver.admin.PurgeDeleted(PurgeDeletedRequest(older_than=Duration()))

    estimated = first.users.estimated, first.sessions.estimated, first.messages.estimated
    done = last.users.done, last.sessions.done, last.messages.done
    assert estimated == done == (1, 2, 4)
    assert (first.users.done, last.users.estimated) == (0, 1)
    assert database.execute("SELECT user_id FROM users").fetchall() == [("bob",)]
    assert contents(palaver, "bob's") == ["one"]


def test_a_purge_keeps_what_started_anew(palaver: Client, ada: User) -> None:
    delete_user(palaver)
    palaver.users.AddUser(AddUserRequest(user_id="ada", email="new"))
    palaver.add("s", "new", user_id="ada")
    before = get_user(palaver), get_session(palaver, "s")

    last = purge(palaver)

    assert (last.users.done, last.sessions.done, last.messages.done) == (0, 1, 4)
    assert (get_user(palaver), get_session(palaver, "s")) == before
    assert contents(palaver, "s") == ["new"]


def test_a_user_that_was_deleted_too_late_is_not_purged(palaver: Client, ada: User) -> None:
    delete_user(palaver)
    request = PurgeDeletedRequest(older_than=Duration(seconds=3600))

    *_, last = palaver.admin.PurgeDeleted(request)

    assert (last.users.done, last.sessions.done, last.messages.done) == (0, 0, 0)
