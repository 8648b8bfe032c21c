"""Access scope: a credential limited to one user sees and changes that user's sessions only."""

from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    ListAllSessionsRequest,
    UpdateSessionRequest,
)
from tests.support import contract
from tests.support.callers import OTHER_OWNERS, OTHER_USER, add_others_session
from tests.support.client import Client, refused
from tests.support.concurrency import Connection

NAMES = [contract.path(method) for method in contract.METHODS]

# Session ids are unique in the deployment: AddSession has to refuse an id of another user.
ELSE = {
    "/palaver.v1.SessionService/AddSession": grpc.StatusCode.ALREADY_EXISTS,
    # AddUser does not reveal whether another user exists.
    "/palaver.v1.UserService/AddUser": grpc.StatusCode.PERMISSION_DENIED,
    "/palaver.v1.AdminService/PurgeDeleted": grpc.StatusCode.PERMISSION_DENIED,
    "/palaver.v1.AdminService/Reindex": grpc.StatusCode.PERMISSION_DENIED,
}


def rows(database: Connection) -> list[Any]:
    """Return all rows of the database."""
    sessions = database.execute("SELECT s::text FROM sessions s ORDER BY 1").fetchall()
    users = database.execute("SELECT u::text FROM users u ORDER BY 1").fetchall()
    messages = database.execute("SELECT m::text FROM messages m ORDER BY 1").fetchall()
    return sessions + users + messages


def refusal_of(
    client: Client, method: MethodDescriptor, session_id: str, user_id: str = OTHER_USER
) -> tuple[Any, str]:
    """Make a call that must be refused; return the code, and the rest of the status."""
    request = contract.request_about(method, session_id=session_id, user_id=user_id)
    with pytest.raises(grpc.RpcError) as raised:
        contract.send(client.channel, method, request)
    call = cast("grpc.Call", raised.value)
    trailing = [item for item in call.trailing_metadata() or () if item[0] != "x-request-id"]
    return call.code(), f"{call.details()} {trailing}"


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_access_scope_hides_other_users_from_every_method(
    admin: Client, scoped: Client, database: Connection, method: MethodDescriptor
) -> None:
    session_ids = [f"{OTHER_USER}, of {owner!r}" for owner in OTHER_OWNERS]
    for session_id, owner in zip(session_ids, OTHER_OWNERS, strict=True):
        add_others_session(admin, session_id, owner)
        add_others_session(admin, f"{session_id}, deleted", owner)
        admin.delete_session(f"{session_id}, deleted")
    before = rows(database)

    for session_id in (*session_ids, *(f"{session_id}, deleted" for session_id in session_ids)):
        is_about_theirs = contract.names_a_session(method) or contract.names_a_user(method)
        if is_about_theirs or contract.path(method) in ELSE:
            expected = ELSE.get(contract.path(method), grpc.StatusCode.NOT_FOUND)
            assert refusal_of(scoped, method, session_id)[0] is expected, session_id
        else:
            request = contract.request_about(method, session_id="")
            assert OTHER_USER not in str(contract.send(scoped.channel, method, request))

    assert rows(database) == before


# AddMemory and AddSession create sessions that do not exist.
AS_IF_MISSING = [
    method
    for method in contract.METHODS
    if contract.names_a_session(method) and method.name not in ("AddSession", "AddMemory")
]


@pytest.mark.parametrize("method", AS_IF_MISSING, ids=map(contract.path, AS_IF_MISSING))
def test_access_scope_refuses_other_sessions_like_missing_ones(
    admin: Client, scoped: Client, method: MethodDescriptor
) -> None:
    add_others_session(admin, f"{OTHER_USER} s")

    code, status = refusal_of(scoped, method, f"{OTHER_USER} s")

    assert (code, status.replace(OTHER_USER, "nobody")) == refusal_of(scoped, method, "nobody s")


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_access_scope_allows_every_method_on_own_session(
    admin: Client, scoped: Client, method: MethodDescriptor
) -> None:
    message = Message(message_id="m", role="user", content="mine")
    admin.add_memory("mine", [message], user_id="ada")

    if contract.path(method) in ELSE and not contract.names_a_user(method):
        assert refusal_of(scoped, method, "mine")[0] is ELSE[contract.path(method)]
    else:
        request = contract.request_about(method, session_id="mine", user_id="ada")
        contract.send(scoped.channel, method, request)


@pytest.mark.parametrize(
    "method",
    [m for m in contract.METHODS if contract.names_a_user(m) and contract.path(m) not in ELSE],
    ids=contract.path,
)
def test_access_scope_refuses_other_users_like_missing_ones(
    admin: Client, scoped: Client, method: MethodDescriptor
) -> None:
    add_others_session(admin, "s")

    code, status = refusal_of(scoped, method, "", OTHER_USER)

    assert (code, status.replace(OTHER_USER, "nobody")) == refusal_of(scoped, method, "", "nobody")


def test_access_scope_session_listings_return_only_own_sessions(
    admin: Client, scoped: Client
) -> None:
    for number in range(6):
        admin.add_session(f"s{number}", user_id="ada" if number % 2 else OTHER_USER)

    def listed(**filter: Any) -> list[str]:
        narrowed = SessionFilter(**filter)
        page = scoped.list_sessions(filter=narrowed, limit=2)
        found = [session.session_id for session in page.sessions]
        while page.next_cursor:
            page = scoped.list_sessions(filter=narrowed, limit=2, cursor=page.next_cursor)
            found += [session.session_id for session in page.sessions]
        stream = scoped.sessions.ListAllSessions(
            ListAllSessionsRequest(filter=narrowed, chunk_size=1)
        )
        assert [s.session_id for chunk in stream for s in chunk.sessions] == found
        return found

    assert (
        listed() == listed(user_id="ada") == listed(metadata="!exists($.x)") == ["s1", "s3", "s5"]
    )
    assert listed(user_id=OTHER_USER) == []


def test_access_scope_new_sessions_belong_to_the_user(scoped: Client, database: Connection) -> None:
    assert scoped.add_session("a").user_id == "ada"
    named = AddSessionRequest(session_id="b", user_id="ada")
    assert scoped.sessions.AddSession(named).user_id == "ada"
    scoped.add("c", "without ids")
    scoped.add("d", "for herself", user_id="ada")
    scoped.add_memory("e", [Message(message_id="m", role="user")])

    owners = database.execute("SELECT DISTINCT user_id, count(*) FROM sessions GROUP BY 1")
    assert owners.fetchall() == [("ada", 5)]


def test_access_scope_restores_own_deleted_session(scoped: Client) -> None:
    scoped.add("s", "one")
    scoped.delete_session("s")
    assert scoped.add("s", "two").session_undeleted
    scoped.delete_session("s")
    assert scoped.add_session("s").user_id == "ada"


@pytest.mark.parametrize(
    "request_",
    [
        AddSessionRequest(session_id="new", user_id=OTHER_USER),
        AddMemoryRequest(
            session_id="new", user_id=OTHER_USER, messages=[Message(role="user", content="x")]
        ),
        UpdateSessionRequest(session_id="mine", user_id=OTHER_USER),
        UpdateSessionRequest(session_id="mine", user_id=""),
        UpdateSessionRequest(session_id=f"{OTHER_USER} s", user_id=OTHER_USER),
        UpdateSessionRequest(session_id="nobody's", user_id=OTHER_USER),
    ],
    ids=["add", "add memory", "give away", "detach", "of theirs", "of nobody's"],
)
def test_access_scope_refuses_giving_sessions_to_others(
    admin: Client, scoped: Client, database: Connection, request_: Any
) -> None:
    add_others_session(admin, f"{OTHER_USER} s")
    scoped.add("mine", "mine")
    before = rows(database)

    with refused(grpc.StatusCode.PERMISSION_DENIED) as refusal:
        scoped.send(request_)

    assert refusal.detail(ErrorInfo).reason == "BOUND_TO_ANOTHER_USER"
    assert rows(database) == before
