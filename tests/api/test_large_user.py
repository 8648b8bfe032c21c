"""DeleteUser of a user with very many sessions: whom it does not stop meanwhile."""

from datetime import UTC

import psycopg
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, DeleteMessagesRequest, GetMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    ListAllUsersRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client, struct
from tests.support.concurrency import PATIENCE, Connection, Gate, begin, wait_until_blocked

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
    """Every call that there is, about others than the large user, in an order that makes sense."""
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
    """Makes them all, and checks that the purge removed what they deleted."""
    for request in calls_about_others(user_id):
        responses = begin(lambda: client.send(request)).result(PATIENCE)  # noqa: B023
        if isinstance(request, PurgeDeletedRequest):
            last = responses[-1]
            assert (last.users.done, last.sessions.done, last.messages.done) == (1, 2, 2)  # type: ignore[attr-defined]


def test_a_user_with_100000_sessions_is_deleted_while_calls_about_others_go_on(
    start_server: StartServer, database: Connection, database_url: str
) -> None:
    for statement in FILL:
        database.execute(statement)
    # Two connections: one deletes, and the other has to do for all else.
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
