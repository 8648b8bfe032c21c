"""Get or create the user of a session, locked until the transaction ends.

Locks are taken in this order, so that no transactions deadlock: a user's row before rows of
sessions, several sessions in the order of their session_id, a session's row before its messages.

A transaction that gives a session to a user holds a lock on the user's row until it ends.
DeleteUser waits for these transactions, and then finds all sessions of the user by their user_id:
live ones, and deleted ones that could be restored.
"""

from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement
from palaver_server.errors import NotFound

# CTEs that get or create the user %(user_id)s if `{condition}` holds. FOR KEY SHARE: any number
# of transactions may hold this lock at a time, but not together with DeleteUser's. A user that
# is missing or deleted is created as a placeholder, and the INSERT locks its row. If DeleteUser
# deletes the user while `known` waits for the lock, `known` is empty, and the user is created.
ENSURED = """
    known AS (
        SELECT user_id FROM users
        WHERE user_id = %(user_id)s AND deleted_at IS NULL AND {condition}
        FOR KEY SHARE
    ), ensured AS (
        INSERT INTO users AS u (user_id)
        SELECT %(user_id)s WHERE NOT EXISTS (SELECT 1 FROM known) AND {condition}
        ON CONFLICT (user_id) DO UPDATE SET
            id = excluded.id,
            filled_in = excluded.filled_in,
            email = excluded.email,
            first_name = excluded.first_name,
            last_name = excluded.last_name,
            metadata = excluded.metadata,
            created_at = greatest(excluded.created_at, u.updated_at, u.deleted_at),
            updated_at = greatest(excluded.updated_at, u.updated_at, u.deleted_at),
            deleted_at = NULL
        WHERE u.deleted_at IS NOT NULL
        RETURNING created_at
    )
"""

ENSURE_USER = Statement(
    "users.ensure", f"WITH {ENSURED.format(condition='true')} SELECT count(*) FROM ensured"
)


LOCK_USER = Statement(
    "users.lock_known",
    """
    SELECT user_id FROM users WHERE user_id = %(user_id)s AND deleted_at IS NULL FOR KEY SHARE
""",
)


async def lock_user(connection: Connection, user_id: str) -> None:
    """Lock the row of a live user as `ensure_user` does.

    Raises:
        NotFound: There is no such live user.
    """
    if await connection.fetch_one(LOCK_USER, {"user_id": user_id}) is None:
        raise NotFound("User", user_id)


async def ensure_user(connection: Connection, user_id: str) -> None:
    """Get or create a user, and lock its row until the transaction ends.

    Call it before the transaction locks a session.
    """
    await connection.fetch(ENSURE_USER, {"user_id": user_id})
