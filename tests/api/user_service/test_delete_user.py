"""UserService.DeleteUser: the user is deleted with all sessions and messages, for good."""

from datetime import UTC
from functools import partial

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListAllUsersRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, refused, struct
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    Gate,
    at_once,
    begin,
    wait_until_blocked,
)

# --- Contract ----------------------------------------------------------------------------------


def test_delete_user_deletes_sessions_and_messages_at_returned_time(
    palaver: Client, ada: User, database: Connection
) -> None:
    palaver.add("another", "one", user_id="ada")
    palaver.delete_messages("another", last_n=1)

    deleted = palaver.delete_user("ada")

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
        ("before", False),  # rows deleted before keep their time
        ("message of another", False),
        ("message of before", False),
        ("message of before", False),
        ("message of s", True),
        ("message of s", True),
        ("s", True),
    ]


def test_delete_user_deleted_rows_are_not_found(palaver: Client, ada: User) -> None:
    palaver.delete_user("ada")

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
    assert palaver.session_ids(user_id="ada") == []
    assert not palaver.list_users().users


def test_delete_user_other_users_and_sessions_are_kept(palaver: Client, ada: User) -> None:
    palaver.add("bob's", "one", user_id="bob")
    palaver.add("nobody's", "two")
    names = ("bob's", "nobody's")
    before = [palaver.get_session(name) for name in names], palaver.get_user("bob")

    palaver.delete_user("ada")

    after = [palaver.get_session(name) for name in names], palaver.get_user("bob")
    assert after == before
    assert [palaver.contents(name) for name in names] == [["one"], ["two"]]


def test_delete_user_detached_session_is_kept(palaver: Client, ada: User) -> None:
    palaver.update_session("s", user_id="")

    deleted = palaver.delete_user("ada")

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)
    assert palaver.contents("s") == ["one", "two"]


def test_delete_user_without_sessions_is_deleted(palaver: Client) -> None:
    palaver.add_user("u")

    deleted = palaver.delete_user("u")

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)


def test_delete_user_of_placeholder_succeeds(palaver: Client) -> None:
    palaver.add("s", "one", user_id="u")

    deleted = palaver.delete_user("u")

    assert (deleted.sessions_deleted, deleted.messages_deleted) == (1, 1)


# --- Concurrency -------------------------------------------------------------------------------


NOT_FOUND, ALREADY_EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS


def test_delete_user_simultaneous_calls_succeed_once(callers: list[Client]) -> None:
    for number in range(10):
        callers[0].add(f"s{number}", "one", "two", user_id="u")

    outcomes = at_once(
        [partial(c.users.DeleteUser, DeleteUserRequest(user_id="u")) for c in callers]
    )

    (deleted,) = outcomes.results
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (10, 20)
    assert outcomes.refusals == {NOT_FOUND: len(callers) - 1}


SESSIONS = 100_000

FILL = [
    "INSERT INTO users (user_id) VALUES ('large')",
    f"""
    INSERT INTO sessions (session_id, user_id, last_sequence)
    SELECT 's' || i, 'large', 1 FROM generate_series(1, {SESSIONS}) i
    """,
    f"""
    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT 's' || i, 1, 'm', 'user', 'hello' FROM generate_series(1, {SESSIONS}) i
    """,
    "ANALYZE",
]


def calls_about_others(user_id: str) -> list[ProtobufMessage]:
    """Return a request of every method about users other than the large one, in a working order."""
    message = Message(message_id="m", role="user")
    session_id = f"of {user_id}"
    return [
        AddMemoryRequest(session_id=session_id, user_id=user_id, messages=[message]),
        AddMemoryRequest(session_id=session_id, messages=[Message(role="user")]),
        GetMemoryRequest(session_id=session_id),
        DeleteMessagesRequest(session_id=session_id, last_n=1),
        GetUserRequest(user_id=user_id),
        AddUserRequest(user_id=user_id, email="x"),
        UpdateUserRequest(user_id=user_id, email="y"),
        AddSessionRequest(session_id=f"new of {user_id}", user_id=user_id),
        UpdateSessionRequest(session_id=session_id, metadata=struct(a=1), user_id=f"{user_id} 2"),
        GetSessionRequest(session_id=session_id),
        GetSessionRequest(session_id="s1"),
        GetUserRequest(user_id="large"),
        ListSessionsRequest(filter=SessionFilter(user_id=user_id)),
        ListSessionsRequest(filter=SessionFilter(user_id="large")),
        ListAllSessionsRequest(filter=SessionFilter(user_id=user_id)),
        ListUsersRequest(),
        ListAllUsersRequest(),
        DeleteSessionRequest(session_id=session_id),
        DeleteUserRequest(user_id=user_id),
        PurgeDeletedRequest(older_than=Duration()),
    ]


def make_calls_about_others(client: Client, user_id: str) -> None:
    """Make all these calls, and check that the purge removed the rows they deleted."""
    for request in calls_about_others(user_id):
        responses = begin(lambda: client.send(request)).result(MAX_WAIT_SECONDS)  # noqa: B023
        if isinstance(request, PurgeDeletedRequest):
            last = responses[-1]
            assert (last.users.done, last.sessions.done, last.messages.done) == (1, 2, 2)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_delete_user_with_100000_sessions_does_not_block_other_calls(
    start_server: StartServer, database: Connection, database_url: str
) -> None:
    for statement in FILL:
        database.execute(statement)
    # Two connections: one deletes, and the other serves all other calls.
    client = start_server(pool_max_size=2)
    request = DeleteUserRequest(user_id="large")
    with (
        psycopg.connect(database_url) as rival,
        Gate(database_url, "BEFORE UPDATE ON sessions", of="OLD.user_id = 'large'") as gate,
    ):
        rival.execute(f"SELECT FROM sessions WHERE session_id = 's{SESSIONS - 1}' FOR UPDATE")
        deletion = begin(lambda: client.users.DeleteUser(request, timeout=120))
        wait_until_blocked(database)  # in the middle of locking the sessions
        make_calls_about_others(client, "first")

        rival.rollback()
        gate.wait_until_reached()  # in the middle of deleting them
        make_calls_about_others(client, "second")

        gate.open()

        deleted = deletion.result(120)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (SESSIONS, SESSIONS)
    instants = database.execute(
        "SELECT deleted_at FROM users WHERE user_id = 'large'"
        " UNION SELECT deleted_at FROM sessions WHERE session_id LIKE 's%'"
        " UNION SELECT deleted_at FROM messages"
    ).fetchall()
    assert instants == [(deleted.deleted_at.ToDatetime(tzinfo=UTC),)]


# --- Access ------------------------------------------------------------------------------------


WITHOUT_ID, WITH_ID = Message(role="user"), Message(role="user", message_id="m")


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_delete_user_scoped_caller_deletes_itself_and_starts_over(
    admin: Client, scoped: Client, message: Message
) -> None:
    admin.add("theirs", "hello", user_id="theirs")
    scoped.add("s", "mine")

    assert scoped.delete_user("ada").sessions_deleted == 1
    assert scoped.add_memory("s", [message]).session_created

    request = GetSessionRequest(session_id="s")
    assert admin.sessions.GetSession(request).user_id == "ada"
    theirs = admin.get_session("theirs")
    assert theirs.user_id == "theirs"
