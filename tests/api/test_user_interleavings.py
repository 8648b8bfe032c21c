"""DeleteUser against those who give sessions to the user, each held up in the middle."""

from collections.abc import Iterator

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, DeleteMessagesRequest, GetMemoryRequest
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
    UpdateUserRequest,
)
from palaver_server.store.ensure_user import HOLD_USER
from tests.support.client import Client, refused, struct
from tests.support.concurrency import PATIENCE, Connection, Gate, begin, wait_until_blocked
from tests.support.ledger import audit_tables

# DeleteUser stands there when it has all locks.
DELETING = "BEFORE UPDATE OF deleted_at ON users"

WITHOUT_ID, WITH_ID = Message(role="user", content="new"), Message(message_id="m", role="user")


@pytest.fixture(autouse=True)
def ada(palaver: Client) -> User:
    """The user of `s`, which has two messages, and of `before`, which is deleted already."""
    user = palaver.users.AddUser(AddUserRequest(user_id="ada", email="ada@example.com"))
    for session_id in ("s", "before"):
        palaver.sessions.AddSession(
            AddSessionRequest(session_id=session_id, user_id="ada", metadata=struct(secret=1))
        )
        palaver.add(session_id, "one", "two")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="before"))
    palaver.add("bob's", "one", user_id="bob")
    return user


@pytest.fixture
def rival(palaver: Client, database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def delete_ada(palaver: Client) -> DeleteUserResponse:
    return palaver.users.DeleteUser(DeleteUserRequest(user_id="ada"), timeout=PATIENCE)


def get_user(palaver: Client, user_id: str) -> User:
    return palaver.users.GetUser(GetUserRequest(user_id=user_id))


def get_session(palaver: Client, session_id: str) -> Session:
    return palaver.sessions.GetSession(GetSessionRequest(session_id=session_id))


def sessions_of(palaver: Client, user_id: str) -> list[str]:
    request = ListSessionsRequest(filter=SessionFilter(user_id=user_id))
    return [session.session_id for session in palaver.sessions.ListSessions(request).sessions]


def contents(palaver: Client, session_id: str) -> list[str]:
    memory = palaver.memory.GetMemory(GetMemoryRequest(session_id=session_id))
    return [message.content for message in memory.messages]


def purge(palaver: Client) -> int:
    """Purges, and gives how many users are removed."""
    request = PurgeDeletedRequest(older_than=Duration())
    *_, last = palaver.admin.PurgeDeleted(request, timeout=PATIENCE)
    return last.users.done


def memory(session_id: str, message: Message, user_id: str = "") -> AddMemoryRequest:
    return AddMemoryRequest(session_id=session_id, user_id=user_id, messages=[message])


# What gives a session to ada, the session, and where the call has done so, but not yet ended.
GIVE: dict[str, tuple[ProtobufMessage, str, str]] = {
    "AddSession": (
        AddSessionRequest(session_id="new", user_id="ada"), "new", "BEFORE INSERT ON sessions",
    ),
    "AddMemory": (memory("new", WITHOUT_ID, "ada"), "new", "BEFORE INSERT ON messages"),
    "AddMemory with ids": (memory("new", WITH_ID, "ada"), "new", "BEFORE INSERT ON messages"),
    "UpdateSession": (
        UpdateSessionRequest(session_id="bob's", user_id="ada"), "bob's",
        "BEFORE UPDATE ON sessions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", GIVE)
def test_a_delete_takes_the_session_that_the_user_is_being_given(
    palaver: Client, database: Connection, database_url: str, way: str
) -> None:
    request, session_id, event = GIVE[way]
    with Gate(database_url, event) as gate:
        giving = begin(lambda: palaver.send(request))
        gate.wait_until_reached()
        deletion = begin(lambda: delete_ada(palaver))
        wait_until_blocked(database, 2)

        gate.open()

        giving.result(PATIENCE)
        assert deletion.result(PATIENCE).sessions_deleted == 2
    with refused(grpc.StatusCode.NOT_FOUND):
        get_session(palaver, session_id)
    audit_tables(database)


@pytest.mark.parametrize("way", GIVE)
def test_a_session_that_is_given_while_the_user_is_deleted_is_that_of_a_new_user(
    palaver: Client, database: Connection, database_url: str, ada: User, way: str
) -> None:
    request, session_id, _ = GIVE[way]
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: delete_ada(palaver))
        gate.wait_until_reached()
        giving = begin(lambda: palaver.send(request))
        wait_until_blocked(database, 2)

        gate.open()

        deleted = deletion.result(PATIENCE)
        giving.result(PATIENCE)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (1, 2)
    anew = get_user(palaver, "ada")
    assert (anew.email, anew.id > ada.id) == ("", True)
    assert anew.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert sessions_of(palaver, "ada") == [session_id]
    if session_id == "new":
        session = get_session(palaver, "new")
        assert session.created_at.ToNanoseconds() >= anew.created_at.ToNanoseconds()
    audit_tables(database)


@pytest.mark.parametrize("way", GIVE)
def test_a_user_that_starts_anew_is_created_after_it_was_deleted_and_before_its_session(
    palaver: Client, rival: Connection, database: Connection, way: str
) -> None:
    request, session_id, _ = GIVE[way]
    rival.execute("SELECT FROM sessions WHERE session_id = 's' FOR UPDATE")
    deletion = begin(lambda: delete_ada(palaver))
    wait_until_blocked(database)
    giving = begin(lambda: palaver.send(request))  # begins before the instant of the delete
    wait_until_blocked(database, 2)

    rival.rollback()

    giving.result(PATIENCE)
    deleted_at = deletion.result(PATIENCE).deleted_at.ToNanoseconds()
    created_at = get_user(palaver, "ada").created_at.ToNanoseconds()
    assert deleted_at <= created_at
    if session_id == "new":
        assert created_at <= get_session(palaver, "new").created_at.ToNanoseconds()


# What is about the session or the user itself, and what then becomes of it.
NOT_FOUND, ANEW = grpc.StatusCode.NOT_FOUND, None
MEANWHILE: dict[str, tuple[ProtobufMessage, grpc.StatusCode | None]] = {
    "AddMemory": (memory("s", WITHOUT_ID), ANEW),
    "AddMemory with ids": (memory("s", WITH_ID), ANEW),
    "AddMemory of bob": (memory("s", WITHOUT_ID, "bob"), ANEW),
    "AddMemory with ids of bob": (memory("s", WITH_ID, "bob"), ANEW),
    "AddMemory of the user": (memory("s", WITHOUT_ID, "ada"), ANEW),
    "AddMemory to one deleted before": (memory("before", WITHOUT_ID), ANEW),
    "AddMemory with ids to one deleted before": (memory("before", WITH_ID), ANEW),
    "AddSession": (AddSessionRequest(session_id="before"), ANEW),
    "AddUser": (AddUserRequest(user_id="ada"), ANEW),
    "UpdateSession": (UpdateSessionRequest(session_id="s", metadata=struct(a=1)), NOT_FOUND),
    "UpdateSession to bob": (UpdateSessionRequest(session_id="s", user_id="bob"), NOT_FOUND),
    "DeleteSession": (DeleteSessionRequest(session_id="s"), NOT_FOUND),
    "DeleteMessages": (DeleteMessagesRequest(session_id="s", last_n=1), NOT_FOUND),
    "UpdateUser": (UpdateUserRequest(user_id="ada", email="new"), NOT_FOUND),
    "DeleteUser": (DeleteUserRequest(user_id="ada"), NOT_FOUND),
}


@pytest.mark.parametrize("call", MEANWHILE)
def test_who_waits_for_a_delete_finds_nothing_of_what_was(
    palaver: Client, database: Connection, database_url: str, call: str
) -> None:
    request, code = MEANWHILE[call]
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: delete_ada(palaver))
        gate.wait_until_reached()
        waiting = begin(lambda: palaver.send(request))
        wait_until_blocked(database, 2)

        gate.open()

        assert deletion.result(PATIENCE).messages_deleted == 2
        if code:
            with refused(code):
                waiting.result(PATIENCE)
        else:
            waiting.result(PATIENCE)
    audit_tables(database)
    if isinstance(request, AddMemoryRequest):
        session = get_session(palaver, request.session_id)
        assert (session.user_id, session.metadata) == (request.user_id, struct())
        assert contents(palaver, request.session_id) == [request.messages[0].content]
    assert sessions_of(palaver, "ada") == (["s"] if call == "AddMemory of the user" else [])


def test_readers_find_all_of_a_user_until_it_is_deleted(
    palaver: Client, database_url: str, ada: User
) -> None:
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: delete_ada(palaver))
        gate.wait_until_reached()

        assert get_user(palaver, "ada") == ada
        assert contents(palaver, "s") == ["one", "two"]
        assert sessions_of(palaver, "ada") == ["s"]

        gate.open()
        deletion.result(PATIENCE)


def test_a_session_that_leaves_while_a_delete_waits_for_it_stays(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute("UPDATE sessions SET user_id = 'bob' WHERE session_id IN ('s', 'before')")
    deletion = begin(lambda: delete_ada(palaver))
    wait_until_blocked(database)

    rival.commit()

    deleted = deletion.result(PATIENCE)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)
    assert contents(palaver, "s") == ["one", "two"]
    assert palaver.add("before", "three").session_undeleted
    assert sessions_of(palaver, "bob") == ["s", "before", "bob's"]


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_a_delete_takes_the_session_that_is_being_brought_back(
    palaver: Client, database: Connection, database_url: str, message: Message
) -> None:
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: palaver.send(memory("before", message)))
        gate.wait_until_reached()
        deletion = begin(lambda: delete_ada(palaver))
        wait_until_blocked(database, 2)

        gate.open()

        addition.result(PATIENCE)
        deleted = deletion.result(PATIENCE)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (2, 3)
    with refused(grpc.StatusCode.NOT_FOUND):
        get_session(palaver, "before")
    audit_tables(database)


def test_a_session_that_is_being_deleted_is_forgotten_with_its_user(
    palaver: Client, database: Connection, database_url: str
) -> None:
    with Gate(database_url, "BEFORE UPDATE ON messages") as gate:
        request = DeleteSessionRequest(session_id="s")
        first = begin(lambda: palaver.sessions.DeleteSession(request, timeout=PATIENCE))
        gate.wait_until_reached()
        second = begin(lambda: delete_ada(palaver))
        wait_until_blocked(database, 2)

        gate.open()

        assert first.result(PATIENCE).messages_deleted == 2
        assert second.result(PATIENCE).sessions_deleted == 0
    assert palaver.add("s", "new").session_created
    session = get_session(palaver, "s")
    assert (session.user_id, session.metadata) == ("", struct())


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_memory_for_a_session_that_another_is_creating_creates_its_user_only_if_it_gets_it(
    palaver: Client, rival: Connection, database: Connection, message: Message, end: str
) -> None:
    rival.execute("INSERT INTO sessions (session_id) VALUES ('new')")
    call = begin(lambda: palaver.send(memory("new", message, "carol")))
    wait_until_blocked(database)

    getattr(rival, end)()

    call.result(PATIENCE)
    gets_it = end == "rollback"
    assert get_session(palaver, "new").user_id == ("carol" if gets_it else "")
    assert contents(palaver, "new") == [message.content]
    users = database.execute("SELECT FROM users WHERE user_id = 'carol'").rowcount
    assert users == (1 if gets_it else 0)


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_memory_for_a_session_that_is_being_purged_creates_its_user(
    palaver: Client, rival: Connection, database: Connection, message: Message
) -> None:
    rival.execute("DELETE FROM messages WHERE session_id = 'before'")
    rival.execute("DELETE FROM sessions WHERE session_id = 'before'")
    call = begin(lambda: palaver.send(memory("before", message, "carol")))
    wait_until_blocked(database)

    rival.commit()

    call.result(PATIENCE)
    assert get_session(palaver, "before").user_id == "carol"
    audit_tables(database)


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_who_creates_the_same_session_of_the_same_new_user_does_not_deadlock(
    palaver: Client, database: Connection, database_url: str, message: Message
) -> None:
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        session = AddSessionRequest(session_id="new", user_id="carol")
        first = begin(lambda: palaver.sessions.AddSession(session, timeout=PATIENCE))
        gate.wait_until_reached()
        second = begin(lambda: palaver.send(memory("new", message, "carol")))
        wait_until_blocked(database, 2)

        gate.open()

        assert first.result(PATIENCE).user_id == "carol"
        second.result(PATIENCE)
    assert get_session(palaver, "new").last_sequence == 1


@pytest.mark.parametrize("way", [*GIVE, "UpdateUser"])
def test_who_is_giving_a_session_to_the_user_stops_nobody_but_a_delete(
    palaver: Client, rival: Connection, way: str
) -> None:
    rival.execute(HOLD_USER.sql.encode(), {"user_id": "ada"})
    update = UpdateUserRequest(user_id="ada", email="new")

    begin(lambda: palaver.send(update if way == "UpdateUser" else GIVE[way][0])).result(PATIENCE)


@pytest.mark.parametrize("way", GIVE)
def test_who_is_changing_the_user_stops_nobody_from_giving_it_a_session(
    palaver: Client, rival: Connection, way: str
) -> None:
    rival.execute("UPDATE users SET email = 'new' WHERE user_id = 'ada'")

    begin(lambda: palaver.send(GIVE[way][0])).result(PATIENCE)


def test_a_user_that_is_named_while_it_is_purged_starts_anew(
    palaver: Client, database: Connection, database_url: str
) -> None:
    delete_ada(palaver)
    with Gate(database_url, "BEFORE DELETE ON users") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        giving = begin(lambda: palaver.send(GIVE["AddSession"][0]))
        wait_until_blocked(database, 2)

        gate.open()

        assert purging.result(PATIENCE) == 1
        giving.result(PATIENCE)
    assert get_user(palaver, "ada").email == ""
    audit_tables(database)


def test_a_purge_passes_by_a_user_that_is_starting_anew(
    palaver: Client, database: Connection, database_url: str
) -> None:
    delete_ada(palaver)
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        giving = begin(lambda: palaver.send(GIVE["AddSession"][0]))
        gate.wait_until_reached()

        assert purge(palaver) == 0

        gate.open()
        giving.result(PATIENCE)
    assert sessions_of(palaver, "ada") == ["new"]
    audit_tables(database)
