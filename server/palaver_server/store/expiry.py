"""Expired sessions: records that they are deleted, before a write that depends on it.

The messages of an expired session get the same `deleted_at` as those of a deleted one: the instant
of the delete, which is that of the expiry.
"""

from collections.abc import Sequence

from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.store.liveness import EXPIRED_SESSION

# A statement of its own, before the delete: the snapshot of the delete then contains the messages
# that the writes added which the lock waited for.
LOCK_EXPIRED = StatementTemplate(
    "sessions.lock_expired",
    f"""
    SELECT s.session_id FROM sessions s
    WHERE {{which}} AND {EXPIRED_SESSION}
    ORDER BY s.session_id
    FOR NO KEY UPDATE
""",
)
_ONE = LOCK_EXPIRED.fill(which="s.session_id = %(session_id)s")
_OF_USER = LOCK_EXPIRED.fill(which="s.user_id = %(user_id)s")

DELETE_LOCKED = StatementTemplate(
    "sessions.delete_locked",
    """
    WITH deleted AS (
        UPDATE sessions SET deleted_at = {time}
        WHERE session_id = ANY(%(session_ids)s)
        RETURNING session_id, deleted_at
    ), deleted_messages AS (
        UPDATE messages m SET deleted_at = deleted.deleted_at
        FROM deleted
        WHERE m.session_id = deleted.session_id AND m.deleted_at IS NULL
    )
    SELECT count(*) FROM deleted
""",
)
DELETE_EXPIRED = DELETE_LOCKED.fill(is_prepared=False, time="expires_at")
DELETE_NOW = DELETE_LOCKED.fill(is_prepared=False, time="statement_timestamp()")


async def expire_session(connection: Connection, session_id: str) -> bool:
    """Delete a session, in a transaction, if it has expired; return whether it had."""
    return await _expire(connection, _ONE, {"session_id": session_id})


async def expire_sessions_of(connection: Connection, user_id: str) -> bool:
    """Do the same to all sessions of a user, which the transaction has locked."""
    return await _expire(connection, _OF_USER, {"user_id": user_id})


async def _expire(connection: Connection, lock: Statement, parameters: dict[str, str]) -> bool:
    rows = await connection.fetch(lock, parameters)
    if rows:
        await delete_locked(connection, DELETE_EXPIRED, [row[0] for row in rows])
    return bool(rows)


async def delete_locked(
    connection: Connection, statement: Statement, session_ids: Sequence[str]
) -> None:
    """Run DELETE_EXPIRED or DELETE_NOW on live sessions that the transaction has locked."""
    await connection.fetch(statement, {"session_ids": list(session_ids)})


# The triggers set `expires_at` when a statement sets `updated_at`.
EXTEND_SESSION = Statement(
    "sessions.extend",
    """
    UPDATE sessions SET updated_at = updated_at
    WHERE session_id = %(session_id)s AND ttl IS NOT NULL
    RETURNING expires_at
""",
)


async def extend_session(connection: Connection, session_id: str) -> PgTimestamp | None:
    """Set the expiry of a locked session after a call that changed nothing else; return it."""
    row = await connection.fetch_one(EXTEND_SESSION, {"session_id": session_id})
    return row[0] if row else None
