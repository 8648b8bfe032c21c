"""Users: the table and its SQL. What holds a user for its sessions is in `held_user.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple

from server.errors import AlreadyExists, NotFound
from server.principal import bound_user
from server.store.connection import Row
from server.store.moment import Moment, as_datetime
from server.store.ownership import OWNED
from server.store.page import Page, Span, last_position, listing
from server.store.pool import Pool


class UserRow(NamedTuple):
    """A live user. `metadata` is JSON text."""

    user_id: str
    id: int
    email: str
    first_name: str
    last_name: str
    metadata: str
    created_at: Moment
    updated_at: Moment

    @property
    def position(self) -> int:
        """The listing position."""
        return self.id


class DeletedUser(NamedTuple):
    """What a delete did."""

    deleted_at: Moment
    sessions_deleted: int
    messages_deleted: int


COLUMNS = """
    user_id, id, email, first_name, last_name, metadata::text, created_at, updated_at
"""

# Upper bound of a row's size as a protobuf message, in bytes.
SIZE = """
    octet_length(user_id) + octet_length(email) + octet_length(first_name)
    + octet_length(last_name) + 4 * octet_length(metadata) + 100
"""


class UserStore:
    """Reads and writes users. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    # A conflict with a live user that is filled in updates nothing and so returns no row.
    ADD_USER = f"""
        INSERT INTO users AS u (user_id, filled_in, email, first_name, last_name, metadata)
        VALUES (
            %(user_id)s, true, %(email)s, %(first_name)s, %(last_name)s, %(metadata)s::jsonb
        )
        ON CONFLICT (user_id) DO UPDATE SET
            id = CASE WHEN u.deleted_at IS NULL THEN u.id ELSE excluded.id END,
            filled_in = excluded.filled_in,
            email = excluded.email,
            first_name = excluded.first_name,
            last_name = excluded.last_name,
            metadata = excluded.metadata,
            created_at = CASE WHEN u.deleted_at IS NULL THEN u.created_at
                ELSE greatest(excluded.created_at, u.deleted_at) END,
            updated_at = greatest(excluded.updated_at, u.updated_at, u.deleted_at),
            deleted_at = NULL
        WHERE u.deleted_at IS NOT NULL OR NOT u.filled_in
        RETURNING {COLUMNS}
    """

    async def add_user(
        self, user_id: str, *, email: str, first_name: str, last_name: str, metadata: str
    ) -> UserRow:
        """Creates a user, fills in a bare one, or starts a deleted one anew.

        Raises:
            AlreadyExists: The user is live and filled in.
        """
        parameters = {
            "user_id": user_id,
            "email": email,
            "first_name": first_name,
            "last_name": last_name,
            "metadata": metadata,
        }
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.ADD_USER, parameters)
        if row is None:
            raise AlreadyExists("User", user_id)
        return UserRow._make(row)

    GET_USER = f"""
        SELECT {COLUMNS} FROM users
        WHERE user_id = %(user_id)s AND deleted_at IS NULL
    """

    async def get_user(self, user_id: str) -> UserRow:
        """Gets a live user.

        Raises:
            NotFound: There is none.
        """
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.GET_USER, {"user_id": user_id})
            return _found(user_id, row)

    # The row lock is for concurrent merges: each reads what the one before it wrote.
    LOCK_USER = GET_USER + " FOR NO KEY UPDATE"

    UPDATE_USER = f"""
        UPDATE users
        SET filled_in = true, email = %(email)s, first_name = %(first_name)s,
            last_name = %(last_name)s, metadata = %(metadata)s::jsonb,
            updated_at = statement_timestamp()
        WHERE user_id = %(user_id)s
        RETURNING {COLUMNS}
    """

    async def update_user(self, user_id: str, change: Callable[[UserRow], UserRow]) -> UserRow:
        """Replaces a user's email, names and metadata by what `change` makes; fills it in.

        Nobody else writes to the user between the read and the write. What `change`
        raises undoes the update.

        Raises:
            NotFound: There is no such live user.
        """
        async with self._pool.connection() as connection, connection.transaction():
            locked = await connection.fetch_one(self.LOCK_USER, {"user_id": user_id})
            row = change(_found(user_id, locked))
            updated = await connection.fetch_one(self.UPDATE_USER, row._asdict())
            return _found(user_id, updated)

    # Excludes those who hold the user to give it a session.
    LOCK_USER_ALONE = GET_USER + " FOR UPDATE"

    # Also the sessions that are deleted already: they must not come back with this user.
    OF_USER = """
        user_id = %(user_id)s
        AND (deleted_at IS NULL OR deleted_at IS NOT NULL AND NOT forgotten)
    """

    # The count is of what is there once the locks are taken, not of what was there when
    # the statement began.
    LOCK_SESSIONS = f"""
        SELECT count(*) FILTER (WHERE deleted_at IS NULL) FROM (
            SELECT deleted_at FROM sessions WHERE {OF_USER}
            ORDER BY session_id
            FOR NO KEY UPDATE
        ) locked
    """

    # The instant of all: after whatever the locks had to wait for.
    DELETE_USER = """
        UPDATE users SET deleted_at = statement_timestamp()
        WHERE user_id = %(user_id)s
        RETURNING deleted_at
    """

    DELETE_MESSAGES = """
        UPDATE messages SET deleted_at = %(deleted_at)s
        WHERE deleted_at IS NULL AND session_id IN (
            SELECT session_id FROM sessions WHERE user_id = %(user_id)s AND deleted_at IS NULL
        )
    """

    FORGET_SESSIONS = f"""
        UPDATE sessions SET deleted_at = coalesce(deleted_at, %(deleted_at)s), forgotten = true
        WHERE {OF_USER}
    """

    async def delete_user(self, user_id: str) -> DeletedUser:
        """Soft-deletes a user, all its sessions and all their messages, at one instant.

        Those of its sessions that were deleted before are forgotten with it. However long it
        takes: who has very much must be forgotten too. The call's deadline bounds it.

        Raises:
            NotFound: There is no such live user.
        """
        parameters: dict[str, Any] = {"user_id": user_id}
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute("SET LOCAL statement_timeout = 0")
            _found(user_id, await connection.fetch_one(self.LOCK_USER_ALONE, parameters))
            (sessions_deleted,) = await connection.fetch_one(self.LOCK_SESSIONS, parameters) or ()
            (deleted_at,) = await connection.fetch_one(self.DELETE_USER, parameters) or ()
            parameters["deleted_at"] = as_datetime(deleted_at)
            messages_deleted = (await connection.execute(self.DELETE_MESSAGES, parameters)).rowcount
            await connection.fetch(self.FORGET_SESSIONS, parameters)
        return DeletedUser(deleted_at, sessions_deleted, messages_deleted)

    LIST_USERS = listing("users", COLUMNS, size=SIZE)

    async def list_users(self, span: Span, *, limit: int) -> Page[UserRow]:
        """Lists live users by listing position."""
        user = bound_user()
        statement = self.LIST_USERS.format(
            condition=f"deleted_at IS NULL AND {OWNED}" if user else "deleted_at IS NULL",
            direction=span.direction,
        )
        parameters = {
            "limit": limit, "after": span.after, "before": span.before, "bound_user": user
        }  # fmt: skip
        async with self._pool.connection() as connection:
            # Planned for the one user whom a bound caller sees: one plan for all would read all.
            rows = await connection.fetch(statement, parameters, prepare=user is None)
            return Page.of(UserRow, rows)

    LAST_ID = last_position("users")

    async def last_id(self) -> int:
        """Gets the last listing position in use, 0 if there is none."""
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.LAST_ID)
        return int(row[0]) if row else 0


def _found(user_id: str, row: Row | None) -> UserRow:
    if row is None:
        raise NotFound("User", user_id)
    return UserRow._make(row)
