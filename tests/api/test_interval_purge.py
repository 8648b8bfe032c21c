"""The purge that a server runs at intervals, with the configured retention."""

from datetime import timedelta

from tests.conftest import StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection
from tests.support.rows import age_deleted_rows, count_rows, count_sessions_and_messages


def test_interval_purge_removes_deleted_rows(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(purge_interval_seconds=0.1)
    for round_ in ("first", "second"):
        palaver.add(round_, "1")
        palaver.add(f"{round_} live", "1")
        palaver.delete_memory(round_)

        wait_until(
            lambda: (
                database.execute(
                    "SELECT count(*) FROM sessions WHERE deleted_at IS NOT NULL"
                ).fetchone()
                == (0,)
            )
        )

    assert count_sessions_and_messages(database) == (2, 2)


def test_interval_purge_keeps_rows_within_retention(
    start_server: StartServer, database: Connection
) -> None:
    palaver = start_server(purge_interval_seconds=0.1, purge_retention_seconds=3600)
    palaver.add("two hours ago", "1")
    palaver.delete_memory("two hours ago")
    age_deleted_rows(database, timedelta(hours=2))
    palaver.add("now", "1")
    palaver.delete_memory("now")

    wait_until(lambda: count_sessions_and_messages(database) == (1, 1))

    left = database.execute("SELECT session_id FROM sessions").fetchall()
    assert left == [("now",)]


def add_and_delete(client: Client, session_id: str) -> None:
    client.add(session_id, "one", "two")
    client.delete_session(session_id)


def has_failed(database: Connection) -> bool:
    return bool(database.execute("SELECT FROM failures WHERE is_called").fetchall())


def test_interval_purge_continues_after_failure(
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

    wait_until(lambda: count_rows(database, "messages") == 0)
