"""UserService.DeleteUser among calls that give the user sessions, held at chosen statements."""

import grpc
import pytest
from google.protobuf.message import Message as ProtobufMessage

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, DeleteMessagesRequest
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import AddUserRequest, DeleteUserRequest, UpdateUserRequest
from palaver_server.store.ensure_user import ENSURE_USER
from tests.support.client import Client, refused, struct
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, Gate, begin, wait_until_blocked
from tests.support.model.tables import audit_tables

# --- Concurrency -------------------------------------------------------------------------------


WITHOUT_ID, WITH_ID = Message(role="user", content="new"), Message(message_id="m", role="user")


def memory(session_id: str, message: Message, user_id: str = "") -> AddMemoryRequest:
    return AddMemoryRequest(session_id=session_id, user_id=user_id, messages=[message])


# Requests that give ada a session, the session, and the event at which the call has done so.
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


@pytest.fixture(autouse=True)
def session_of_bob(palaver: Client, ada: User) -> None:
    palaver.add("bob's", "one", user_id="bob")


@pytest.mark.parametrize("way", GIVE)
def test_delete_user_takes_session_being_given_to_user(
    palaver: Client, database: Connection, database_url: str, way: str
) -> None:
    request, session_id, event = GIVE[way]
    with Gate(database_url, event) as gate:
        giving = begin(lambda: palaver.send(request))
        gate.wait_until_reached()
        deletion = begin(lambda: palaver.delete_user("ada"))
        wait_until_blocked(database, 2)

        gate.open()

        giving.result(MAX_WAIT_SECONDS)
        assert deletion.result(MAX_WAIT_SECONDS).sessions_deleted == 2
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session(session_id)
    audit_tables(database)


# DeleteUser fires this event when it holds all locks.
DELETING = "BEFORE UPDATE OF deleted_at ON users"


@pytest.mark.parametrize("way", GIVE)
def test_delete_user_session_given_during_delete_belongs_to_new_user(
    palaver: Client, database: Connection, database_url: str, ada: User, way: str
) -> None:
    request, session_id, _ = GIVE[way]
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: palaver.delete_user("ada"))
        gate.wait_until_reached()
        giving = begin(lambda: palaver.send(request))
        wait_until_blocked(database, 2)

        gate.open()

        deleted = deletion.result(MAX_WAIT_SECONDS)
        giving.result(MAX_WAIT_SECONDS)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (1, 2)
    recreated = palaver.get_user("ada")
    assert (recreated.email, recreated.id > ada.id) == ("", True)
    assert recreated.created_at.ToNanoseconds() >= deleted.deleted_at.ToNanoseconds()
    assert palaver.session_ids(user_id="ada") == [session_id]
    if session_id == "new":
        session = palaver.get_session("new")
        assert session.created_at.ToNanoseconds() >= recreated.created_at.ToNanoseconds()
    audit_tables(database)


@pytest.mark.parametrize("way", GIVE)
def test_delete_user_user_starting_over_is_created_after_delete_and_before_session(
    palaver: Client, rival: Connection, database: Connection, way: str
) -> None:
    request, session_id, _ = GIVE[way]
    rival.execute("SELECT FROM sessions WHERE session_id = 's' FOR UPDATE")
    deletion = begin(lambda: palaver.delete_user("ada"))
    wait_until_blocked(database)
    giving = begin(lambda: palaver.send(request))  # starts before the time of the delete
    wait_until_blocked(database, 2)

    rival.rollback()

    giving.result(MAX_WAIT_SECONDS)
    deleted_at = deletion.result(MAX_WAIT_SECONDS).deleted_at.ToNanoseconds()
    created_at = palaver.get_user("ada").created_at.ToNanoseconds()
    assert deleted_at <= created_at
    if session_id == "new":
        assert created_at <= palaver.get_session("new").created_at.ToNanoseconds()


# Requests about the session or the user, and their refusal; None: the call starts over.
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
def test_delete_user_waiting_calls_find_nothing_of_deleted_user(
    palaver: Client, database: Connection, database_url: str, call: str
) -> None:
    request, code = MEANWHILE[call]
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: palaver.delete_user("ada"))
        gate.wait_until_reached()
        waiting = begin(lambda: palaver.send(request))
        wait_until_blocked(database, 2)

        gate.open()

        assert deletion.result(MAX_WAIT_SECONDS).messages_deleted == 2
        if code:
            with refused(code):
                waiting.result(MAX_WAIT_SECONDS)
        else:
            waiting.result(MAX_WAIT_SECONDS)
    audit_tables(database)
    if isinstance(request, AddMemoryRequest):
        session = palaver.get_session(request.session_id)
        assert (session.user_id, session.metadata) == (request.user_id, struct())
        assert palaver.contents(request.session_id) == [request.messages[0].content]
    assert palaver.session_ids(user_id="ada") == (["s"] if call == "AddMemory of the user" else [])


def test_delete_user_uncommitted_delete_is_invisible_to_readers(
    palaver: Client, database_url: str, ada: User
) -> None:
    with Gate(database_url, DELETING) as gate:
        deletion = begin(lambda: palaver.delete_user("ada"))
        gate.wait_until_reached()

        assert palaver.get_user("ada") == ada
        assert palaver.contents("s") == ["one", "two"]
        assert palaver.session_ids(user_id="ada") == ["s"]

        gate.open()
        deletion.result(MAX_WAIT_SECONDS)


def test_delete_user_session_moved_during_lock_wait_is_kept(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    rival.execute("UPDATE sessions SET user_id = 'bob' WHERE session_id IN ('s', 'before')")
    deletion = begin(lambda: palaver.delete_user("ada"))
    wait_until_blocked(database)

    rival.commit()

    deleted = deletion.result(MAX_WAIT_SECONDS)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (0, 0)
    assert palaver.contents("s") == ["one", "two"]
    assert palaver.add("before", "three").session_undeleted
    assert palaver.session_ids(user_id="bob") == ["s", "before", "bob's"]


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_delete_user_takes_session_being_restored(
    palaver: Client, database: Connection, database_url: str, message: Message
) -> None:
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: palaver.send(memory("before", message)))
        gate.wait_until_reached()
        deletion = begin(lambda: palaver.delete_user("ada"))
        wait_until_blocked(database, 2)

        gate.open()

        addition.result(MAX_WAIT_SECONDS)
        deleted = deletion.result(MAX_WAIT_SECONDS)
    assert (deleted.sessions_deleted, deleted.messages_deleted) == (2, 3)
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("before")
    audit_tables(database)


def test_delete_user_session_being_deleted_is_not_restorable(
    palaver: Client, database: Connection, database_url: str
) -> None:
    with Gate(database_url, "BEFORE UPDATE ON messages") as gate:
        request = DeleteSessionRequest(session_id="s")
        first = begin(lambda: palaver.sessions.DeleteSession(request, timeout=MAX_WAIT_SECONDS))
        gate.wait_until_reached()
        second = begin(lambda: palaver.delete_user("ada"))
        wait_until_blocked(database, 2)

        gate.open()

        assert first.result(MAX_WAIT_SECONDS).messages_deleted == 2
        assert second.result(MAX_WAIT_SECONDS).sessions_deleted == 0
    assert palaver.add("s", "new").session_created
    session = palaver.get_session("s")
    assert (session.user_id, session.metadata) == ("", struct())


@pytest.mark.parametrize("end", ["commit", "rollback"])
@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_add_memory_racing_for_new_session_creates_user_only_if_it_wins(
    palaver: Client, rival: Connection, database: Connection, message: Message, end: str
) -> None:
    rival.execute("INSERT INTO sessions (session_id) VALUES ('new')")
    call = begin(lambda: palaver.send(memory("new", message, "carol")))
    wait_until_blocked(database)

    getattr(rival, end)()

    call.result(MAX_WAIT_SECONDS)
    gets_it = end == "rollback"
    assert palaver.get_session("new").user_id == ("carol" if gets_it else "")
    assert palaver.contents("new") == [message.content]
    users = database.execute("SELECT FROM users WHERE user_id = 'carol'").rowcount
    assert users == (1 if gets_it else 0)


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_add_memory_during_purge_of_session_creates_user(
    palaver: Client, rival: Connection, database: Connection, message: Message
) -> None:
    rival.execute("DELETE FROM messages WHERE session_id = 'before'")
    rival.execute("DELETE FROM sessions WHERE session_id = 'before'")
    call = begin(lambda: palaver.send(memory("before", message, "carol")))
    wait_until_blocked(database)

    rival.commit()

    call.result(MAX_WAIT_SECONDS)
    assert palaver.get_session("before").user_id == "carol"
    audit_tables(database)


@pytest.mark.parametrize("message", [WITHOUT_ID, WITH_ID], ids=["without ids", "with ids"])
def test_add_session_and_add_memory_of_same_new_user_do_not_deadlock(
    palaver: Client, database: Connection, database_url: str, message: Message
) -> None:
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        session = AddSessionRequest(session_id="new", user_id="carol")
        first = begin(lambda: palaver.sessions.AddSession(session, timeout=MAX_WAIT_SECONDS))
        gate.wait_until_reached()
        second = begin(lambda: palaver.send(memory("new", message, "carol")))
        wait_until_blocked(database, 2)

        gate.open()

        assert first.result(MAX_WAIT_SECONDS).user_id == "carol"
        second.result(MAX_WAIT_SECONDS)
    assert palaver.get_session("new").last_sequence == 1


@pytest.mark.parametrize("way", [*GIVE, "UpdateUser"])
def test_ensure_user_lock_blocks_only_delete_user(
    palaver: Client, rival: Connection, way: str
) -> None:
    rival.execute(ENSURE_USER.sql.encode(), {"user_id": "ada"})
    update = UpdateUserRequest(user_id="ada", email="new")

    begin(lambda: palaver.send(update if way == "UpdateUser" else GIVE[way][0])).result(
        MAX_WAIT_SECONDS
    )


@pytest.mark.parametrize("way", GIVE)
def test_update_user_lock_does_not_block_giving_sessions(
    palaver: Client, rival: Connection, way: str
) -> None:
    rival.execute("UPDATE users SET email = 'new' WHERE user_id = 'ada'")

    begin(lambda: palaver.send(GIVE[way][0])).result(MAX_WAIT_SECONDS)


def test_purge_deleted_user_named_during_purge_starts_over(
    palaver: Client, database: Connection, database_url: str
) -> None:
    palaver.delete_user("ada")
    with Gate(database_url, "BEFORE DELETE ON users") as gate:
        purging = begin(lambda: palaver.purge().users.done)
        gate.wait_until_reached()
        giving = begin(lambda: palaver.send(GIVE["AddSession"][0]))
        wait_until_blocked(database, 2)

        gate.open()

        assert purging.result(MAX_WAIT_SECONDS) == 1
        giving.result(MAX_WAIT_SECONDS)
    assert palaver.get_user("ada").email == ""
    audit_tables(database)


def test_purge_deleted_skips_user_starting_over(
    palaver: Client, database: Connection, database_url: str
) -> None:
    palaver.delete_user("ada")
    with Gate(database_url, "BEFORE INSERT ON sessions") as gate:
        giving = begin(lambda: palaver.send(GIVE["AddSession"][0]))
        gate.wait_until_reached()

        assert palaver.purge().users.done == 0

        gate.open()
        giving.result(MAX_WAIT_SECONDS)
    assert palaver.session_ids(user_id="ada") == ["new"]
    audit_tables(database)
