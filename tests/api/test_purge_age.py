"""AdminService.PurgeDeleted and the purge at intervals: how long what is deleted is kept."""

from datetime import timedelta
from typing import Any

import grpc
import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse, PurgeProgress
from palaver.v1.memory_service_pb2 import DeleteMemoryRequest
from tests.conftest import StartServer
from tests.support.client import Client, refused, wait_until

Database = psycopg.Connection[tuple[Any, ...]]

NOW = Duration()


def purge(palaver: Client, older_than: Duration | None = NOW) -> PurgeDeletedResponse:
    """Purges, and gives the last response."""
    request = PurgeDeletedRequest(older_than=older_than)
    *_, last = palaver.admin.PurgeDeleted(request, timeout=20)
    return last


def delete(palaver: Client, session_id: str) -> None:
    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id=session_id))


def progress(*, sessions: int, messages: int) -> PurgeDeletedResponse:
    """The progress when all of so many are done."""
    return PurgeDeletedResponse(
        sessions=PurgeProgress(done=sessions, estimated=sessions),
        messages=PurgeProgress(done=messages, estimated=messages),
        users=PurgeProgress(),
    )


def rows(database: Database) -> tuple[int, int]:
    """How many sessions and messages there are, deleted or not."""
    counts = database.execute(
        "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM messages)"
    ).fetchone()
    assert counts is not None
    return counts[0], counts[1]


def age(database: Database, by: timedelta) -> None:
    """Lets what is deleted have been so for longer."""
    for table in ("sessions", "messages"):
        database.execute(f"UPDATE {table} SET deleted_at = deleted_at - %s", [by])


def test_rows_are_purged_once_they_were_deleted_long_enough_ago(
    start_server: StartServer, database: Database, subtests: pytest.Subtests
) -> None:
    servers = {hours: start_server(purge_retention_seconds=hours * 3600) for hours in (0, 1, 3)}

    for retention, older_than, done in (
        (0, None, 1),
        (1, None, 1),
        (3, None, 0),
        (3, NOW, 1),
        (0, Duration(seconds=1 * 3600), 1),
        (0, Duration(seconds=3 * 3600), 0),
        (0, Duration(seconds=315_576_000_000), 0),  # 10,000 years
    ):
        with subtests.test(retention=retention, older_than=older_than):
            palaver = servers[retention]
            palaver.add("two hours ago", "1")
            delete(palaver, "two hours ago")
            age(database, timedelta(hours=2))

            last = purge(palaver, older_than)

            assert last == progress(sessions=done, messages=done)
            assert rows(database) == (1 - done, 1 - done)
        purge(palaver)


def test_a_negative_age_is_refused(palaver: Client, database: Database) -> None:
    palaver.add("s", "1")
    delete(palaver, "s")

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        purge(palaver, Duration(seconds=-1))

    assert [v.field for v in refusal.detail(BadRequest).field_violations] == ["older_than"]
    assert rows(database) == (1, 1)


def test_deleted_rows_are_purged_at_every_interval(
    start_server: StartServer, database: Database
) -> None:
    palaver = start_server(purge_interval_seconds=0.1)
    for round_ in ("first", "second"):
        palaver.add(round_, "1")
        palaver.add(f"{round_} live", "1")
        delete(palaver, round_)

        wait_until(
            lambda: (
                database.execute(
                    "SELECT count(*) FROM sessions WHERE deleted_at IS NOT NULL"
                ).fetchone()
                == (0,)
            )
        )

    assert rows(database) == (2, 2)


def test_the_interval_purge_keeps_what_the_retention_keeps(
    start_server: StartServer, database: Database
) -> None:
    palaver = start_server(purge_interval_seconds=0.1, purge_retention_seconds=3600)
    palaver.add("two hours ago", "1")
    delete(palaver, "two hours ago")
    age(database, timedelta(hours=2))
    palaver.add("now", "1")
    delete(palaver, "now")

    wait_until(lambda: rows(database) == (1, 1))

    left = database.execute("SELECT session_id FROM sessions").fetchall()
    assert left == [("now",)]
