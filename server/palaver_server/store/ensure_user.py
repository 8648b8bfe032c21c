"""The user that a session is given: created if need be, and held until the session has it.

The order of locks, so that nobody deadlocks: the row of a user before those of sessions,
the rows of several sessions by session_id, the row of a session before its messages. Who
gives a session a user holds that user until the end of the transaction. Who deletes the
user waits for all of them, and then knows every session that there is; from there on, a
session that is not forgotten is found by its user_id, live or deleted, and waited for.
"""

from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement

# A lock that those who name the same user share: only a delete excludes it. One that is
# not there is created, or starts anew, and its row is locked by that.
HOLD_USER = Statement(
    "users.ensure",
    """
    WITH known AS (
        SELECT FROM users WHERE user_id = %(user_id)s AND deleted_at IS NULL
        FOR KEY SHARE
    )
    INSERT INTO users AS u (user_id)
    SELECT %(user_id)s WHERE NOT EXISTS (SELECT FROM known)
    ON CONFLICT (user_id) DO UPDATE SET
        id = excluded.id,
        filled_in = excluded.filled_in,
        email = excluded.email,
        first_name = excluded.first_name,
        last_name = excluded.last_name,
        metadata = excluded.metadata,
        created_at = greatest(excluded.created_at, u.deleted_at),
        updated_at = greatest(excluded.updated_at, u.deleted_at),
        deleted_at = NULL
    WHERE u.deleted_at IS NOT NULL
""",
)


async def hold_user(connection: Connection, user_id: str) -> None:
    """Sees to it that a user is live until the transaction ends, a bare one if need be.

    The transaction may not have locked a session before.
    """
    await connection.fetch(HOLD_USER, {"user_id": user_id})
