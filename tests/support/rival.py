"""Statements of a competing writer, which a test runs while a call waits."""

from datetime import datetime

from tests.support.concurrency import Connection

LOCK_SESSION = "SELECT FROM sessions WHERE session_id = 's' FOR UPDATE"
MOVE_SESSION = "UPDATE sessions SET user_id = %s WHERE session_id = 's'"
DELETE_SESSION = "UPDATE sessions SET deleted_at = now() WHERE session_id = 's'"
DELETE_MESSAGES = "UPDATE messages SET deleted_at = now() WHERE session_id = 's'"

# Append a message with the given id, to a new session or to one that exists.
ADD_MESSAGE = """
    WITH session AS (
        INSERT INTO sessions AS s (session_id, last_sequence) VALUES ('s', 1)
        ON CONFLICT (session_id) DO UPDATE SET last_sequence = s.last_sequence + 1
        RETURNING last_sequence
    )
    INSERT INTO messages (session_id, sequence, message_id, role, content)
    SELECT 's', last_sequence, %s, 'user', 'by the rival' FROM session
"""

DELETE_EVERYTHING = """
    WITH messages AS (UPDATE messages SET deleted_at = now() WHERE deleted_at IS NULL)
    UPDATE sessions SET deleted_at = now()
"""

PURGE_EVERYTHING = "WITH messages AS (DELETE FROM messages) DELETE FROM sessions"


def clock(connection: Connection) -> datetime:
    """Return the time of the database server."""
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    assert row
    return row[0]  # type: ignore[no-any-return]
