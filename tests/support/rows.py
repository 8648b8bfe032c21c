"""Rows that tests count and insert by SQL."""

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
