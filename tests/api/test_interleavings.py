"""AddMemory and AddSession that wait for another transaction, and then see what it committed."""

from collections.abc import Callable, Iterator

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    ListMessagesRequest,
)
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from tests.support.client import Client, refused, struct
from tests.support.concurrency import PATIENCE, Connection, begin, wait_until_blocked

ADD_ROW = """
    WITH session AS (
        INSERT INTO sessions AS s (session_id, last_sequence) VALUES ('s', 1)
        ON CONFLICT (session_id) DO UPDATE SET last_sequence = s.last_sequence + 1
        RETURNING last_sequence
    )
    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT 's', last_sequence, %s, 'user', 'by the rival' FROM session
"""
DELETE_ROWS = """
    WITH messages AS (UPDATE messages SET deleted_at = now() WHERE deleted_at IS NULL)
    UPDATE sessions SET deleted_at = now()
"""
PURGE_ROWS = "WITH messages AS (DELETE FROM messages) DELETE FROM sessions"


@pytest.fixture
def rival(palaver: Client, database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def add_ids(client: Client, *message_ids: str, expected: int | None = None) -> AddMemoryResponse:
    messages = [Message(message_id=name, role="user", content="new") for name in message_ids]
    request = AddMemoryRequest(session_id="s", messages=messages, expected_last_sequence=expected)
    return client.memory.AddMemory(request, timeout=PATIENCE)


def stored(client: Client) -> list[tuple[int, str, str]]:
    request = ListMessagesRequest(session_id="s")
    messages = client.memory.ListMessages(request).messages
    return [(m.sequence, m.message_id, m.content) for m in messages]


def last_sequence(client: Client) -> int:
    return client.sessions.GetSession(GetSessionRequest(session_id="s")).last_sequence


def test_ids_that_appeared_while_a_call_waited_keep_their_sequences(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    add_ids(palaver, "first")
    rival.execute(ADD_ROW, ["a"])
    call = begin(lambda: add_ids(palaver, "b", "a", "c"))
    wait_until_blocked(database)

    rival.commit()

    assert [m.sequence for m in call.result(PATIENCE).messages] == [3, 2, 4]
    assert stored(palaver) == [
        (1, "first", "new"),
        (2, "a", "new"),
        (3, "b", "new"),
        (4, "c", "new"),
    ]
    assert last_sequence(palaver) == 4


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_call_that_waits_for_the_first_write_knows_whether_it_creates_the_session(
    palaver: Client, rival: Connection, database: Connection, end: str
) -> None:
    rival.execute(ADD_ROW, ["a"])
    call = begin(lambda: add_ids(palaver, "a", "b"))
    wait_until_blocked(database)

    getattr(rival, end)()

    response = call.result(PATIENCE)
    assert response.session_created is (end == "rollback")
    assert [message.sequence for message in response.messages] == [1, 2]
    assert stored(palaver) == [(1, "a", "new"), (2, "b", "new")]
    assert last_sequence(palaver) == 2


def test_an_id_that_was_deleted_while_a_call_waited_is_new_memory_at_the_end(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    add_ids(palaver, "a", "b")
    rival.execute("UPDATE sessions SET updated_at = now()")
    rival.execute("UPDATE messages SET deleted_at = now() WHERE message_id = 'a'")
    call = begin(lambda: add_ids(palaver, "a", "b"))
    wait_until_blocked(database)

    rival.commit()

    assert [message.sequence for message in call.result(PATIENCE).messages] == [3, 2]
    assert stored(palaver) == [(2, "b", "new"), (3, "a", "new")]


WAYS: dict[str, Callable[[Client], AddMemoryResponse]] = {
    "without ids": lambda client: client.add("s", "new", user_id="another"),
    "with ids": lambda client: add_ids(client, "a"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_that_waits_for_a_delete_brings_the_session_back(
    palaver: Client, rival: Connection, database: Connection, way: str
) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s", metadata=struct(kept=True)))
    before = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    add_ids(palaver, "a", "b")
    rival.execute(DELETE_ROWS)
    call = begin(lambda: WAYS[way](palaver))
    wait_until_blocked(database)

    rival.commit()

    response = call.result(PATIENCE)
    assert (response.session_created, response.session_undeleted) == (False, True)
    assert [sequence for sequence, _, _ in stored(palaver)] == [3]
    session = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    assert (session.id, session.metadata, session.user_id) == (before.id, before.metadata, "")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_call_that_waits_for_a_purge_of_the_session_knows_what_became_of_it(
    palaver: Client, rival: Connection, database: Connection, way: str, end: str
) -> None:
    add_ids(palaver, "a", "b")
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id="s"))
    rival.execute(PURGE_ROWS)
    call = begin(lambda: WAYS[way](palaver))
    wait_until_blocked(database)

    getattr(rival, end)()

    response = call.result(PATIENCE)
    purged = end == "commit"
    assert (response.session_created, response.session_undeleted) == (purged, not purged)
    assert [sequence for sequence, _, _ in stored(palaver)] == [1 if purged else 3]
    assert last_sequence(palaver) == (1 if purged else 3)


@pytest.mark.parametrize(("expected", "holds"), [(1, False), (2, True)])
def test_the_expected_last_sequence_is_compared_with_what_a_call_waited_for(
    palaver: Client, rival: Connection, database: Connection, expected: int, holds: object
) -> None:
    add_ids(palaver, "a")
    rival.execute(ADD_ROW, ["b"])
    call = begin(lambda: add_ids(palaver, "c", expected=expected))
    wait_until_blocked(database)

    rival.commit()

    if holds:
        assert call.result(PATIENCE).messages[0].sequence == 3
        return
    with refused(grpc.StatusCode.ABORTED) as refusal:
        call.result(PATIENCE)
    assert refusal.detail(ErrorInfo).metadata["last_sequence"] == "2"
    assert [message_id for _, message_id, _ in stored(palaver)] == ["a", "b"]
    assert last_sequence(palaver) == 2


def test_a_refused_expectation_creates_no_session(palaver: Client) -> None:
    with refused(grpc.StatusCode.ABORTED):
        add_ids(palaver, "a", expected=1)

    with refused(grpc.StatusCode.NOT_FOUND):
        last_sequence(palaver)
    assert add_ids(palaver, "a", expected=0).session_created


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_adding_a_session_waits_for_the_one_that_is_being_added(
    palaver: Client, rival: Connection, database: Connection, end: str
) -> None:
    rival.execute(ADD_ROW, ["a"])
    request = AddSessionRequest(session_id="s", user_id="u")
    call = begin(lambda: palaver.sessions.AddSession(request, timeout=PATIENCE))
    wait_until_blocked(database)

    getattr(rival, end)()

    if end == "rollback":
        assert call.result(PATIENCE).user_id == "u"
        return
    with refused(grpc.StatusCode.ALREADY_EXISTS):
        call.result(PATIENCE)
    assert last_sequence(palaver) == 1


def test_a_session_added_while_it_is_deleted_starts_anew(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    add_ids(palaver, "a", "b")
    before = palaver.sessions.GetSession(GetSessionRequest(session_id="s"))
    rival.execute(DELETE_ROWS)
    request = AddSessionRequest(session_id="s", user_id="u", metadata=struct(new=True))
    call = begin(lambda: palaver.sessions.AddSession(request, timeout=PATIENCE))
    wait_until_blocked(database)

    rival.commit()

    session = call.result(PATIENCE)
    assert (session.user_id, session.metadata) == ("u", struct(new=True))
    assert session.id > before.id
    assert session.last_sequence == 2
    assert stored(palaver) == []
