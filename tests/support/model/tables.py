"""Rules for the stored rows that hold during writes too, and the rows that break them."""

from collections.abc import Iterator, Sequence
from typing import LiteralString

from tests.support.concurrency import Connection
from tests.support.model.expected import BrokenPromise

# Each query returns the rows that break its rule.
_RULES: dict[str, LiteralString] = {
    "a message has no session, is live in a deleted one, or exceeds its last sequence": """
        SELECT m.session_id, m.message_id, m.sequence, m.deleted_at, s.deleted_at, s.last_sequence
        FROM messages m LEFT JOIN sessions s USING (session_id)
        WHERE s.session_id IS NULL
            OR m.deleted_at IS NULL AND s.deleted_at IS NOT NULL
            OR m.sequence > s.last_sequence
        """,
    "a session has no live user, or is live although not restorable": """
        SELECT s.session_id, s.user_id, s.deleted_at, s.forgotten, u.deleted_at
        FROM sessions s LEFT JOIN users u USING (user_id)
        WHERE NOT s.forgotten AND s.user_id IS NOT NULL
                AND (u.user_id IS NULL OR u.deleted_at IS NOT NULL)
            OR s.forgotten AND s.deleted_at IS NULL
        """,
}

_DUPLICATE_NAMES = """
    SELECT split_part(content, ' ', 1), count(*) FROM messages
    WHERE deleted_at IS NULL GROUP BY 1 HAVING count(*) > 1
"""

_GAPS = """
    SELECT s.session_id, s.last_sequence, count(*), min(m.sequence), max(m.sequence)
    FROM sessions s JOIN messages m USING (session_id)
    WHERE session_id = ANY(%(session_ids)s) GROUP BY s.session_id
    HAVING NOT (s.last_sequence = count(*) AND min(m.sequence) = 1
        AND max(m.sequence) = s.last_sequence)
"""

_DELETED = """
    SELECT (SELECT count(*) FROM messages WHERE deleted_at IS NOT NULL)
        + (SELECT count(*) FROM sessions WHERE deleted_at IS NOT NULL)
"""


def audit_tables(database: Connection) -> None:
    """Check the rules that hold at any moment, during writes too.

    Raises:
        BrokenPromise: Rows break one of the rules.
    """
    for broken in broken_rules(database):
        raise BrokenPromise(broken)


def broken_rules(database: Connection) -> Iterator[str]:
    """Yield each broken rule with the rows that break it."""
    for rule, query in _RULES.items():
        if rows := database.execute(query).fetchall():
            yield f"{rule}: {rows}"


def duplicate_names(database: Connection) -> Iterator[str]:
    """Yield the names that two live messages have, where a name is used for one message only.

    This finds a retry that was stored twice under different ids.
    """
    for row in database.execute(_DUPLICATE_NAMES):
        yield f"stored twice: {row}"


def gaps(database: Connection, session_ids: Sequence[str]) -> Iterator[str]:
    """Yield those of these sessions, from which nothing was deleted, whose sequences have gaps."""
    for row in database.execute(_GAPS, {"session_ids": list(session_ids)}):
        yield f"a session with gaps in its sequences: {row}"


def count_deleted_rows(database: Connection) -> int:
    """Count the messages and sessions that wait for a purge."""
    row = database.execute(_DELETED).fetchone()
    return int(row[0]) if row else 0
