"""Purges take turns over all servers of a database, and a turn ends with its purge."""

from functools import partial

import grpc
from google.protobuf.duration_pb2 import Duration

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse
from palaver.v1.session_service_pb2 import DeleteSessionRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import PATIENCE, Connection, Gate, begin

EVERYTHING = PurgeDeletedRequest(older_than=Duration())


def add_and_delete(client: Client, session_id: str) -> None:
    client.add(session_id, "one", "two")
    client.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))


def purge(client: Client) -> list[PurgeDeletedResponse]:
    return list(client.admin.PurgeDeleted(EVERYTHING, timeout=PATIENCE))


def removed(responses: list[PurgeDeletedResponse]) -> tuple[int, int]:
    return responses[-1].messages.done, responses[-1].sessions.done


def rows(database: Connection) -> int:
    row = database.execute("SELECT count(*) FROM messages").fetchone()
    return int(row[0]) if row else 0


def turns(database: Connection) -> int:
    """Counts the purgers that have their turn."""
    row = database.execute(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        " AND mode = 'ExclusiveLock' AND objid <> %s"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
        [Gate.KEY],
    ).fetchone()
    return int(row[0]) if row else 0


def tries(database: Connection) -> set[object]:
    """Gives the times at which somebody tried to take the turn, and has done nothing since."""
    attempts = database.execute(
        "SELECT query_start FROM pg_stat_activity WHERE datname = current_database()"
        " AND query LIKE '%pg_try_advisory_lock%' AND pid <> pg_backend_pid()"
    )
    return {attempt for (attempt,) in attempts}


def test_a_purge_waits_for_the_one_that_runs_on_another_server(
    palaver: Client, start_server: StartServer, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "early")
    other = start_server()
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        first = begin(lambda: purge(palaver))
        gate.wait_until_reached()
        add_and_delete(palaver, "late")
        second = begin(lambda: purge(other))
        seen: set[object] = set()

        def has_tried_again() -> bool:
            seen.update(tries(database))
            return len(seen) > 1

        wait_until(has_tried_again)
        gate.open()

        assert removed(first.result(PATIENCE)) == (2, 1)
        responses = second.result(PATIENCE)
    assert removed(responses) == (2, 1)
    assert responses[0].messages.estimated == 2, "it looked before the other had ended"


def test_purges_that_are_started_at_once_share_the_work(
    palaver: Client, start_server: StartServer, database: Connection
) -> None:
    for number in range(20):
        add_and_delete(palaver, f"s{number}")
    clients = [palaver, start_server(purge_batch_size=3)]

    purges = [begin(partial(purge, client)) for client in clients]

    counts = [removed(call.result(PATIENCE)) for call in purges]
    assert (sum(m for m, _ in counts), sum(s for _, s in counts)) == (40, 20)
    assert rows(database) == 0


def test_a_purge_that_is_cancelled_undoes_its_batch_and_ends_its_turn(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "s")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        responses = palaver.admin.PurgeDeleted(EVERYTHING)
        gate.wait_until_reached()

        responses.cancel()

        wait_until(lambda: turns(database) == 0)
        assert rows(database) == 2
    assert removed(purge(palaver)) == (2, 1)


def test_a_purge_whose_connection_breaks_ends_its_turn(
    palaver: Client, database: Connection, database_url: str
) -> None:
    add_and_delete(palaver, "s")
    with Gate(database_url, "BEFORE DELETE ON messages") as gate:
        purging = begin(lambda: purge(palaver))
        gate.wait_until_reached()

        database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0"
        )

        with refused(grpc.StatusCode.UNAVAILABLE):
            purging.result(PATIENCE)
        assert rows(database) == 2
    assert removed(purge(palaver)) == (2, 1)


def test_purges_at_intervals_go_on_after_one_failed(
    start_server: StartServer, database: Connection
) -> None:
    database.execute("CREATE SEQUENCE failures")
    database.execute(
        """
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'purge number %', nextval('failures');
        END $$
        """
    )
    database.execute(
        "CREATE TRIGGER fail BEFORE DELETE ON messages FOR EACH ROW EXECUTE FUNCTION fail()"
    )
    add_and_delete(start_server(purge_interval_seconds=0.01), "s")
    wait_until(lambda: has_failed(database))

    database.execute("DROP TRIGGER fail ON messages")

    wait_until(lambda: rows(database) == 0)


def has_failed(database: Connection) -> bool:
    return bool(database.execute("SELECT FROM failures WHERE is_called").fetchall())
