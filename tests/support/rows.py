"""Rows that tests count and insert by SQL."""

from datetime import timedelta

from tests.support.client import wait_until
from tests.support.concurrency import Connection


def count_rows(database: Connection, table: str) -> int:
    """Count the rows of a table, which a WHERE clause may follow."""
    (count,) = database.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or (0,)
    return int(count)


def insert_messages(database: Connection, count: int, *, size: int = 0) -> None:
    """Insert the session `s` with this many messages.

    The content of a message is its sequence, or with a size, one letter that many times:
    the first A, the second B, and so on.
    """
    parameters = {"count": count, "size": size}
    database.execute(
        "INSERT INTO sessions (session_id, last_sequence) VALUES ('s', %(count)s)", parameters
    )
    database.execute(
        "INSERT INTO messages (session_id, sequence, message_id, role, content)"
        " SELECT 's', number, number, 'user',"
        " CASE %(size)s WHEN 0 THEN number::text ELSE repeat(chr(64 + number), %(size)s) END"
        " FROM generate_series(1, %(count)s) AS number",
        parameters,
    )


def insert_large_users(database: Connection, count: int) -> None:
    """Insert users with metadata of 64 KiB as JSON, and 352 KiB as a Struct."""
    database.execute(
        "INSERT INTO users (user_id, metadata)"
        " SELECT number, jsonb_build_object('list', array_fill(1, ARRAY[32760]))"
        " FROM generate_series(1, %s) AS number",
        [count],
    )


def count_sessions_and_messages(database: Connection) -> tuple[int, int]:
    """Count the rows of sessions and of messages, deleted or not."""
    return count_rows(database, "sessions"), count_rows(database, "messages")


def age_deleted_rows(database: Connection, by: timedelta) -> None:
    """Move the time of each deletion back."""
    for table in ("sessions", "messages"):
        database.execute(f"UPDATE {table} SET deleted_at = deleted_at - %s".encode(), [by])


def let_expire(database: Connection, session_id: str, *, ago: timedelta = timedelta(0)) -> None:
    """Let a session expire now, or some time ago."""
    database.execute(
        "UPDATE sessions SET expires_at = now() - %s WHERE session_id = %s",
        [ago, session_id],
    )


def wait_until_embedded(database: Connection, messages: int) -> None:
    """Wait until no message is queued, and this many have a vector."""
    wait_until(lambda: count_rows(database, "embedding_queue") == 0)
    wait_until(lambda: count_rows(database, "embeddings") == messages)


async def accept(_deleted: object) -> None:
    """Let DeleteMessages delete the messages that it gives."""
