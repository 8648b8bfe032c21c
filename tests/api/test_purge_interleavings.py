"""PurgeDeleted held up in the middle, and in the middle of what others do."""

from collections.abc import Iterator

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMessagesRequest,
    ListMessagesRequest,
)
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from tests.conftest import StartServer
from tests.support.client import Client
from tests.support.concurrency import PATIENCE, Connection, Gate, begin, wait_until_blocked

EVERYTHING = PurgeDeletedRequest(older_than=Duration())


@pytest.fixture
def rival(palaver: Client, database_url: str) -> Iterator[Connection]:
    """Another writer, in a transaction that the test ends."""
    with psycopg.connect(database_url) as connection:
        yield connection
        connection.rollback()


def add(client: Client, session_id: str, *message_ids: str) -> AddMemoryResponse:
    messages = [Message(message_id=name, role="user", content="new") for name in message_ids]
    request = AddMemoryRequest(session_id=session_id, messages=messages)
    return client.memory.AddMemory(request, timeout=PATIENCE)


def delete(client: Client, session_id: str, *message_ids: str) -> None:
    if message_ids:
        request = DeleteMessagesRequest(session_id=session_id, message_ids=message_ids)
        client.memory.DeleteMessages(request)
    else:
        client.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))


def purge(client: Client) -> tuple[int, int]:
    """Purges, and gives how many messages and sessions are removed."""
    *_, last = client.admin.PurgeDeleted(EVERYTHING, timeout=PATIENCE)
    return last.messages.done, last.sessions.done


def stored(client: Client, session_id: str) -> list[tuple[int, str]]:
    request = ListMessagesRequest(session_id=session_id)
    return [(m.sequence, m.message_id) for m in client.memory.ListMessages(request).messages]


def rows(database: Connection, table: str) -> int:
    row = database.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def test_a_purge_passes_by_a_message_that_is_being_brought_back(
    palaver: Client, database_url: str
) -> None:
    add(palaver, "s", "a", "b", "c")
    delete(palaver, "s", "a", "b")
    with Gate(database_url, "AFTER UPDATE ON messages") as gate:
        addition = begin(lambda: add(palaver, "s", "a"))
        gate.wait_until_reached()

        assert purge(palaver) == (1, 0)

        gate.open()
        assert addition.result(PATIENCE).messages[0].sequence == 4
    assert stored(palaver, "s") == [(3, "c"), (4, "a")]


@pytest.mark.parametrize("message_id", ["", "a", "b"], ids=["no id", "the old id", "a new id"])
def test_a_purge_passes_by_a_session_that_is_being_brought_back(
    palaver: Client, database_url: str, message_id: str
) -> None:
    add(palaver, "s", "a")
    delete(palaver, "s")
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: add(palaver, "s", message_id))
        gate.wait_until_reached()

        assert purge(palaver) == (1, 0)

        gate.open()
        response = addition.result(PATIENCE)
    assert (response.session_created, response.session_undeleted) == (False, True)
    assert stored(palaver, "s") == [(2, response.messages[0].message_id)]


def test_a_message_that_is_added_while_its_old_row_is_purged_is_there(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add(palaver, "s", "a", "b")
    delete(palaver, "s", "a", "b")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        addition = begin(lambda: add(palaver, "s", "b", "c", "a"))
        wait_until_blocked(database, 2)
        gate.open()

        assert purging.result(PATIENCE) == (2, 0)
        assert [message.sequence for message in addition.result(PATIENCE).messages] == [3, 4, 5]
    assert stored(palaver, "s") == [(3, "b"), (4, "c"), (5, "a")]
    assert purge(palaver) == (0, 0)
    assert stored(palaver, "s") == [(3, "b"), (4, "c"), (5, "a")]


def test_what_is_added_while_its_session_is_purged_is_there(
    palaver: Client, database: Connection, database_url: str
) -> None:
    sessions = ["without ids", "with ids", "by AddSession"]
    for session_id in sessions:
        add(palaver, session_id, "a")
        delete(palaver, session_id)
    with Gate(database_url, "BEFORE DELETE ON sessions") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        without_ids = begin(lambda: palaver.add("without ids", "new"))
        with_ids = begin(lambda: add(palaver, "with ids", "a"))
        request = AddSessionRequest(session_id="by AddSession", user_id="u")
        by_add_session = begin(lambda: palaver.sessions.AddSession(request, timeout=PATIENCE))
        wait_until_blocked(database, 4)
        gate.open()

        assert purging.result(PATIENCE) == (3, 3)
        for call in (without_ids, with_ids):
            response = call.result(PATIENCE)
            assert (response.session_created, response.session_undeleted) == (True, False)
            assert response.messages[0].sequence == 1
        assert by_add_session.result(PATIENCE).last_sequence == 0
    for session_id in sessions:
        session = palaver.sessions.GetSession(GetSessionRequest(session_id=session_id))
        assert session.last_sequence == len(stored(palaver, session_id))


def test_a_session_stays_as_long_as_one_of_its_messages_does(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    add(palaver, "s", "a", "b", "c")
    delete(palaver, "s")
    rival.execute("SELECT FROM messages WHERE message_id = 'c' FOR UPDATE")

    assert purge(palaver) == (2, 0)

    rival.rollback()
    add(palaver, "s", "d")
    assert stored(palaver, "s") == [(4, "d")]
    assert purge(palaver) == (1, 0)
    delete(palaver, "s")
    assert purge(palaver) == (1, 1)
    assert rows(database, "sessions") + rows(database, "messages") == 0


def test_what_is_deleted_while_a_purge_runs_is_left_to_the_next(
    start_server: StartServer, database: Connection, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=1)
    for session_id in ("early", "late"):
        add(palaver, session_id, "a", "b")
    add(palaver, "live", "a", "b")
    delete(palaver, "early")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        delete(palaver, "late")
        delete(palaver, "live", "a")
        gate.open()

        assert purging.result(PATIENCE) == (2, 1)
    assert (rows(database, "messages"), rows(database, "sessions")) == (4, 2)
    assert purge(palaver) == (3, 1)
    assert (rows(database, "messages"), rows(database, "sessions")) == (1, 1)


def test_what_a_waiting_delete_takes_is_left_to_the_next_purge(
    start_server: StartServer, rival: Connection, database: Connection, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=1)
    for session_id in ("early", "late"):
        add(palaver, session_id, "a", "b")
    delete(palaver, "early")
    rival.execute("SELECT FROM sessions WHERE session_id = 'late' FOR UPDATE")
    deletion = begin(lambda: delete(palaver, "late"))
    wait_until_blocked(database)
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        rival.rollback()
        deletion.result(PATIENCE)
        gate.open()

        assert purging.result(PATIENCE) == (2, 1)
