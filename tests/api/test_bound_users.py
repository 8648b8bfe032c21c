"""A credential that is bound to a user: it sees and touches that user's sessions alone."""

from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, GetMemoryRequest
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver_server.auth.roles import Role
from tests.conftest import StartServer
from tests.support import contract
from tests.support.callers import KeysFile, caller
from tests.support.client import Client, refused
from tests.support.concurrency import Connection
from tests.support.searching import found

NAMES = [contract.path(method) for method in contract.METHODS]

# What is in everything that is not Ada's.
THEIRS = "bertha"  # as long as "nobody"

# An id is taken or free in the deployment, so that taking it must tell.
ELSE = {
    "/palaver.v1.SessionService/AddSession": grpc.StatusCode.ALREADY_EXISTS,
    # So this must not tell.
    "/palaver.v1.UserService/AddUser": grpc.StatusCode.PERMISSION_DENIED,
    "/palaver.v1.AdminService/PurgeDeleted": grpc.StatusCode.PERMISSION_DENIED,
    "/palaver.v1.AdminService/Reindex": grpc.StatusCode.PERMISSION_DENIED,
}


@pytest.fixture
def palaver(start_server: StartServer, keys_file: KeysFile) -> Iterator[Client]:
    """An admin, bound to nobody, on a server where Ada has a key too."""
    admin = keys_file.add(Role.ADMIN)
    keys_file.add(Role.WRITER, "ada")
    server = start_server(credentials=keys_file.path)
    with caller(server.address, admin) as client:
        yield client


@pytest.fixture
def ada(palaver: Client, keys_file: KeysFile) -> Iterator[Client]:
    """Ada, a writer."""
    with caller(palaver.address, keys_file.keys[1]) as client:
        yield client


# Another user, one of almost the same name, nobody.
OWNERS = (THEIRS, "ada ", "")


def add_theirs(palaver: Client, session_id: str, owner: str = THEIRS) -> None:
    """Adds a session with a message that are not Ada's."""
    message = Message(message_id="m", role="user", content=THEIRS)
    palaver.memory.AddMemory(
        AddMemoryRequest(session_id=session_id, user_id=owner, messages=[message])
    )


def rows(database: Connection) -> list[Any]:
    """All that is in the database."""
    sessions = database.execute("SELECT s::text FROM sessions s ORDER BY 1").fetchall()
    users = database.execute("SELECT u::text FROM users u ORDER BY 1").fetchall()
    messages = database.execute("SELECT m::text FROM messages m ORDER BY 1").fetchall()
    return sessions + users + messages


def refusal_of(
    client: Client, method: MethodDescriptor, session_id: str, user_id: str = THEIRS
) -> tuple[Any, str]:
    """Makes a call that must be refused; gives the code, and all else of the status."""
    request = contract.request_about(method, session_id=session_id, user_id=user_id)
    with pytest.raises(grpc.RpcError) as raised:
        contract.send(client.channel, method, request)
    call = cast("grpc.Call", raised.value)
    trailing = [item for item in call.trailing_metadata() or () if item[0] != "x-request-id"]
    return call.code(), f"{call.details()} {trailing}"


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_no_method_sees_or_touches_what_is_not_the_callers(
    palaver: Client, ada: Client, database: Connection, method: MethodDescriptor
) -> None:
    session_ids = [f"{THEIRS}, of {owner!r}" for owner in OWNERS]
    for session_id, owner in zip(session_ids, OWNERS, strict=True):
        add_theirs(palaver, session_id, owner)
        add_theirs(palaver, f"{session_id}, deleted", owner)
        palaver.sessions.DeleteSession(DeleteSessionRequest(session_id=f"{session_id}, deleted"))
    before = rows(database)

    for session_id in (*session_ids, *(f"{session_id}, deleted" for session_id in session_ids)):
        is_about_theirs = contract.names_a_session(method) or contract.names_a_user(method)
        if is_about_theirs or contract.path(method) in ELSE:
            expected = ELSE.get(contract.path(method), grpc.StatusCode.NOT_FOUND)
            assert refusal_of(ada, method, session_id)[0] is expected, session_id
        else:
            request = contract.request_about(method, session_id="")
            assert THEIRS not in str(contract.send(ada.channel, method, request))

    assert rows(database) == before


# AddMemory would create what does not exist.
AS_IF_MISSING = [
    method
    for method in contract.METHODS
    if contract.names_a_session(method) and method.name not in ("AddSession", "AddMemory")
]


@pytest.mark.parametrize("method", AS_IF_MISSING, ids=map(contract.path, AS_IF_MISSING))
def test_what_is_not_the_callers_is_refused_as_if_it_did_not_exist(
    palaver: Client, ada: Client, method: MethodDescriptor
) -> None:
    add_theirs(palaver, f"{THEIRS} s")

    code, status = refusal_of(ada, method, f"{THEIRS} s")

    assert (code, status.replace(THEIRS, "nobody")) == refusal_of(ada, method, "nobody s")


@pytest.mark.parametrize("method", contract.METHODS, ids=NAMES)
def test_every_method_works_on_what_is_the_callers(
    palaver: Client, ada: Client, method: MethodDescriptor
) -> None:
    message = Message(message_id="m", role="user", content="mine")
    palaver.memory.AddMemory(AddMemoryRequest(session_id="mine", user_id="ada", messages=[message]))

    if contract.path(method) in ELSE and not contract.names_a_user(method):
        assert refusal_of(ada, method, "mine")[0] is ELSE[contract.path(method)]
    else:
        request = contract.request_about(method, session_id="mine", user_id="ada")
        contract.send(ada.channel, method, request)


@pytest.mark.parametrize(
    "method",
    [m for m in contract.METHODS if contract.names_a_user(m) and contract.path(m) not in ELSE],
    ids=contract.path,
)
def test_another_user_is_refused_as_if_it_did_not_exist(
    palaver: Client, ada: Client, method: MethodDescriptor
) -> None:
    add_theirs(palaver, "s")

    code, status = refusal_of(ada, method, "", THEIRS)

    assert (code, status.replace(THEIRS, "nobody")) == refusal_of(ada, method, "", "nobody")


def test_listings_have_what_is_the_callers_and_nothing_else(palaver: Client, ada: Client) -> None:
    for number in range(6):
        palaver.sessions.AddSession(
            AddSessionRequest(session_id=f"s{number}", user_id="ada" if number % 2 else THEIRS)
        )

    def listed(**filter: Any) -> list[str]:
        narrowed = SessionFilter(**filter)
        page = ada.sessions.ListSessions(ListSessionsRequest(filter=narrowed, limit=2))
        found = [session.session_id for session in page.sessions]
        while page.next_cursor:
            page = ada.sessions.ListSessions(
                ListSessionsRequest(filter=narrowed, limit=2, cursor=page.next_cursor)
            )
            found += [session.session_id for session in page.sessions]
        stream = ada.sessions.ListAllSessions(ListAllSessionsRequest(filter=narrowed, chunk_size=1))
        assert [s.session_id for chunk in stream for s in chunk.sessions] == found
        return found

    assert (
        listed() == listed(user_id="ada") == listed(metadata="!exists($.x)") == ["s1", "s3", "s5"]
    )
    assert listed(user_id=THEIRS) == []


def test_searches_find_what_is_the_callers_and_nothing_else(palaver: Client, ada: Client) -> None:
    for owner in OWNERS:
        add_theirs(palaver, f"of {owner!r}", owner)
    message = Message(message_id="m", role="user", content=f"not {THEIRS}")
    palaver.memory.AddMemory(AddMemoryRequest(session_id="mine", user_id="ada", messages=[message]))

    for text in (THEIRS, ""):
        assert found(ada, text) == found(ada, text, user_id="ada") == [message.content]
        assert found(ada, text, session_id="mine") == [message.content]
        assert found(ada, text, user_id=THEIRS) == []
        with refused(grpc.StatusCode.NOT_FOUND):
            found(ada, text, session_id=f"of {THEIRS!r}")
        assert len(found(palaver, text)) == len(OWNERS) + 1

    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id="mine", user_id=THEIRS))
    assert found(ada, THEIRS) == []


def test_what_a_bound_caller_creates_is_its_users(ada: Client, database: Connection) -> None:
    assert ada.sessions.AddSession(AddSessionRequest(session_id="a")).user_id == "ada"
    named = AddSessionRequest(session_id="b", user_id="ada")
    assert ada.sessions.AddSession(named).user_id == "ada"
    ada.add("c", "without ids")
    ada.add("d", "for herself", user_id="ada")
    ada.memory.AddMemory(
        AddMemoryRequest(session_id="e", messages=[Message(message_id="m", role="user")])
    )

    owners = database.execute("SELECT DISTINCT user_id, count(*) FROM sessions GROUP BY 1")
    assert owners.fetchall() == [("ada", 5)]


def test_a_bound_caller_brings_its_own_deleted_sessions_back(ada: Client) -> None:
    ada.add("s", "one")
    ada.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))
    assert ada.add("s", "two").session_undeleted
    ada.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))
    assert ada.sessions.AddSession(AddSessionRequest(session_id="s")).user_id == "ada"


@pytest.mark.parametrize(
    "request_",
    [
        AddSessionRequest(session_id="new", user_id=THEIRS),
        AddMemoryRequest(
            session_id="new", user_id=THEIRS, messages=[Message(role="user", content="x")]
        ),
        UpdateSessionRequest(session_id="mine", user_id=THEIRS),
        UpdateSessionRequest(session_id="mine", user_id=""),
        UpdateSessionRequest(session_id=f"{THEIRS} s", user_id=THEIRS),
        UpdateSessionRequest(session_id="nobody's", user_id=THEIRS),
    ],
    ids=["add", "add memory", "give away", "detach", "of theirs", "of nobody's"],
)
def test_a_bound_caller_makes_no_session_anothers(
    palaver: Client, ada: Client, database: Connection, request_: Any
) -> None:
    add_theirs(palaver, f"{THEIRS} s")
    ada.add("mine", "mine")
    before = rows(database)

    with refused(grpc.StatusCode.PERMISSION_DENIED) as refusal:
        ada.send(request_)

    assert refusal.detail(ErrorInfo).reason == "BOUND_TO_ANOTHER_USER"
    assert rows(database) == before


def test_a_bound_caller_may_name_itself(ada: Client) -> None:
    ada.add("mine", "mine")

    same = ada.sessions.UpdateSession(UpdateSessionRequest(session_id="mine", user_id="ada"))

    assert same.user_id == "ada"


def test_a_session_that_is_moved_is_gone_for_one_and_there_for_the_other(
    palaver: Client, ada: Client
) -> None:
    add_theirs(palaver, f"{THEIRS} s")
    session_id = f"{THEIRS} s"
    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id=session_id, user_id="ada"))
    memory = ada.memory.GetMemory(GetMemoryRequest(session_id=session_id))
    assert [message.content for message in memory.messages] == [THEIRS]

    palaver.sessions.UpdateSession(UpdateSessionRequest(session_id=session_id, user_id=THEIRS))

    with refused(grpc.StatusCode.NOT_FOUND):
        ada.sessions.GetSession(GetSessionRequest(session_id=session_id))
