"""AdminService.PurgeDeleted among other calls, and how purges take turns."""

from functools import partial

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMessagesRequest,
    ListMessagesRequest,
)
from palaver.v1.session_service_pb2 import AddSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, Gate, begin, wait_until_blocked
from tests.support.http2 import Http2
from tests.support.locks import has_purge_lease, lease_requests
from tests.support.rows import count_rows

# --- Concurrency -------------------------------------------------------------------------------


def add_ids(client: Client, session_id: str, *message_ids: str) -> AddMemoryResponse:
    messages = [Message(message_id=name, role="user", content="new") for name in message_ids]
    request = AddMemoryRequest(session_id=session_id, messages=messages)
    return client.memory.AddMemory(request, timeout=MAX_WAIT_SECONDS)


def delete(client: Client, session_id: str, *message_ids: str) -> None:
    if message_ids:
        request = DeleteMessagesRequest(session_id=session_id, message_ids=message_ids)
        client.memory.DeleteMessages(request)
    else:
        client.delete_session(session_id)


def stored_ids(client: Client, session_id: str) -> list[tuple[int, str]]:
    request = ListMessagesRequest(session_id=session_id)
    return [(m.sequence, m.message_id) for m in client.memory.ListMessages(request).messages]


def test_purge_deleted_skips_message_being_restored(palaver: Client, database_url: str) -> None:
    add_ids(palaver, "s", "a", "b", "c")
    delete(palaver, "s", "a", "b")
    with Gate(database_url, "AFTER UPDATE ON messages") as gate:
        addition = begin(lambda: add_ids(palaver, "s", "a"))
        gate.wait_until_reached()

        assert removed(palaver.purge_deleted()) == (1, 0)

        gate.open()
        assert addition.result(MAX_WAIT_SECONDS).messages[0].sequence == 4
    assert stored_ids(palaver, "s") == [(3, "c"), (4, "a")]


@pytest.mark.parametrize("message_id", ["", "a", "b"], ids=["no id", "the old id", "a new id"])
def test_purge_deleted_skips_session_being_restored(
    palaver: Client, database_url: str, message_id: str
) -> None:
    add_ids(palaver, "s", "a")
    delete(palaver, "s")
    with Gate(database_url, "BEFORE INSERT ON messages") as gate:
        addition = begin(lambda: add_ids(palaver, "s", message_id))
        gate.wait_until_reached()

        assert removed(palaver.purge_deleted()) == (1, 0)

        gate.open()
        response = addition.result(MAX_WAIT_SECONDS)
    assert (response.session_created, response.session_undeleted) == (False, True)
    assert stored_ids(palaver, "s") == [(2, response.messages[0].message_id)]


def test_purge_deleted_message_added_during_purge_of_old_row_is_kept(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add_ids(palaver, "s", "a", "b")
    delete(palaver, "s", "a", "b")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: removed(palaver.purge_deleted()))
        gate.wait_until_reached()
        addition = begin(lambda: add_ids(palaver, "s", "b", "c", "a"))
        wait_until_blocked(database, 2)
        gate.open()

        assert purging.result(MAX_WAIT_SECONDS) == (2, 0)
        assert [message.sequence for message in addition.result(MAX_WAIT_SECONDS).messages] == [
            3,
            4,
            5,
        ]
    assert stored_ids(palaver, "s") == [(3, "b"), (4, "c"), (5, "a")]
    assert removed(palaver.purge_deleted()) == (0, 0)
    assert stored_ids(palaver, "s") == [(3, "b"), (4, "c"), (5, "a")]


def test_purge_deleted_message_added_during_purge_of_session_is_kept(
    palaver: Client, database: Connection, database_url: str
) -> None:
    sessions = ["without ids", "with ids", "by AddSession"]
    for session_id in sessions:
        add_ids(palaver, session_id, "a")
        delete(palaver, session_id)
    with Gate(database_url, "BEFORE DELETE ON sessions") as gate:
        purging = begin(lambda: removed(palaver.purge_deleted()))
        gate.wait_until_reached()
        without_ids = begin(lambda: palaver.add("without ids", "new"))
        with_ids = begin(lambda: add_ids(palaver, "with ids", "a"))
        request = AddSessionRequest(session_id="by AddSession", user_id="u")
        by_add_session = begin(
            lambda: palaver.sessions.AddSession(request, timeout=MAX_WAIT_SECONDS)
        )
        wait_until_blocked(database, 4)
        gate.open()

        assert purging.result(MAX_WAIT_SECONDS) == (3, 3)
        for call in (without_ids, with_ids):
            response = call.result(MAX_WAIT_SECONDS)
            assert (response.session_created, response.session_undeleted) == (True, False)
            assert response.messages[0].sequence == 1
        assert by_add_session.result(MAX_WAIT_SECONDS).last_sequence == 0
    for session_id in sessions:
        session = palaver.get_session(session_id)
        assert session.last_sequence == len(stored_ids(palaver, session_id))


def test_purge_deleted_session_is_kept_while_a_message_remains(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    add_ids(palaver, "s", "a", "b", "c")
    delete(palaver, "s")
    rival.execute("SELECT FROM messages WHERE message_id = 'c' FOR UPDATE")

    assert removed(palaver.purge_deleted()) == (2, 0)

    rival.rollback()
    add_ids(palaver, "s", "d")
    assert stored_ids(palaver, "s") == [(4, "d")]
    assert removed(palaver.purge_deleted()) == (1, 0)
    delete(palaver, "s")
    assert removed(palaver.purge_deleted()) == (1, 1)
    assert count_rows(database, "sessions") + count_rows(database, "messages") == 0


def test_purge_deleted_rows_deleted_during_purge_are_left_to_next(
    start_server: StartServer, database: Connection, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=1)
    for session_id in ("early", "late"):
        add_ids(palaver, session_id, "a", "b")
    add_ids(palaver, "live", "a", "b")
    delete(palaver, "early")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: removed(palaver.purge_deleted()))
        gate.wait_until_reached()
        delete(palaver, "late")
        delete(palaver, "live", "a")
        gate.open()

        assert purging.result(MAX_WAIT_SECONDS) == (2, 1)
    assert (count_rows(database, "messages"), count_rows(database, "sessions")) == (4, 2)
    assert removed(palaver.purge_deleted()) == (3, 1)
    assert (count_rows(database, "messages"), count_rows(database, "sessions")) == (1, 1)


def test_purge_deleted_rows_of_waiting_delete_are_left_to_next(
    start_server: StartServer, rival: Connection, database: Connection, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=1)
    for session_id in ("early", "late"):
        add_ids(palaver, session_id, "a", "b")
    delete(palaver, "early")
    rival.execute("SELECT FROM sessions WHERE session_id = 'late' FOR UPDATE")
    deletion = begin(lambda: delete(palaver, "late"))
    wait_until_blocked(database)
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: removed(palaver.purge_deleted()))
        gate.wait_until_reached()
        rival.rollback()
        deletion.result(MAX_WAIT_SECONDS)
        gate.open()

        assert purging.result(MAX_WAIT_SECONDS) == (2, 1)


def add_and_delete(client: Client, session_id: str) -> None:
    client.add(session_id, "one", "two")
    client.delete_session(session_id)


def removed(responses: list[PurgeDeletedResponse]) -> tuple[int, int]:
    return responses[-1].messages.done, responses[-1].sessions.done


def test_purge_deleted_waits_for_purge_on_another_server(
    palaver: Client, start_server: StartServer, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "early")
    other = start_server()
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        first = begin(palaver.purge_deleted)
        gate.wait_until_reached()
        add_and_delete(palaver, "late")
        second = begin(other.purge_deleted)
        seen: set[object] = set()

        def has_tried_again() -> bool:
            seen.update(lease_requests(database))
            return len(seen) > 1

        wait_until(has_tried_again)
        gate.open()

        assert removed(first.result(MAX_WAIT_SECONDS)) == (2, 1)
        responses = second.result(MAX_WAIT_SECONDS)
    assert removed(responses) == (2, 1)
    assert responses[0].messages.estimated == 2, "it tried before the other had ended"


def test_purge_deleted_simultaneous_calls_share_the_work(
    palaver: Client, start_server: StartServer, database: Connection
) -> None:
    for number in range(20):
        add_and_delete(palaver, f"s{number}")
    clients = [palaver, start_server(purge_batch_size=3)]

    purges = [begin(partial(client.purge_deleted)) for client in clients]

    counts = [removed(call.result(MAX_WAIT_SECONDS)) for call in purges]
    assert (sum(m for m, _ in counts), sum(s for _, s in counts)) == (40, 20)
    assert count_rows(database, "messages") == 0


EVERYTHING = PurgeDeletedRequest(older_than=Duration())


def test_purge_deleted_cancelled_call_rolls_back_batch_and_releases_turn(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "s")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        responses = palaver.admin.PurgeDeleted(EVERYTHING)
        gate.wait_until_reached()

        responses.cancel()

        wait_until(lambda: not has_purge_lease(database))
        assert count_rows(database, "messages") == 2
    assert removed(palaver.purge_deleted()) == (2, 1)


def test_purge_deleted_lost_connection_releases_turn(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "s")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(palaver.purge_deleted)
        gate.wait_until_reached()

        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )

        with refused(grpc.StatusCode.UNAVAILABLE):
            purging.result(MAX_WAIT_SECONDS)
        assert count_rows(database, "messages") == 2
    assert removed(palaver.purge_deleted()) == (2, 1)


def stalled_purge(palaver: Client) -> Http2:
    """Start a purge whose client has no room for a report."""
    reader = Http2(palaver.address, window=0)
    request = PurgeDeletedRequest(older_than=Duration())
    reader.call("/palaver.v1.AdminService/PurgeDeleted", request.SerializeToString())
    return reader


def test_purge_deleted_goes_on_while_its_reader_stalls(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(purge_batch_size=1)
    add_ids(palaver, "s", *map(str, range(20)))
    delete(palaver, "s")

    reader = stalled_purge(palaver)
    wait_until(lambda: count_rows(database, "messages") == 0)
    wait_until(lambda: not has_purge_lease(database))
    reader.take(64 * 1024)

    *_, report, _ = reader.received_until_end()
    last = PurgeDeletedResponse.FromString(report.payload[5:])
    assert (last.messages.done, last.sessions.done) == (20, 1)
    reader.close()


@pytest.mark.slow
def test_purge_deleted_whose_reader_stalls_ends_at_send_timeout_and_leaves_the_turn(
    start_server: StartServer, database: Connection, database_url: str
) -> None:
    palaver = start_server(purge_batch_size=10, stream_send_timeout_seconds=1)
    add_ids(palaver, "s", *map(str, range(30)))
    delete(palaver, "s")

    with Gate(database_url, "BEFORE DELETE ON messages", of="OLD.message_id = '15'") as gate:
        reader = stalled_purge(palaver)
        gate.wait_until_reached()
        before = lease_requests(database)
        request = PurgeDeletedRequest(older_than=Duration())
        second = palaver.admin.PurgeDeleted(request, timeout=MAX_WAIT_SECONDS)
        wait_until(lambda: lease_requests(database) > before)
        assert second.is_active()

        *_, end = reader.received_until_end()
        assert b"CANCELLED" in end.payload
        gate.open()

    *_, last = second
    removed_first = 30 - last.messages.done
    assert removed_first % 10 == 0  # whole batches
    assert count_rows(database, "messages") == count_rows(database, "sessions") == 0
    reader.close()
