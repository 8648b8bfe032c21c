"""Users: adding, getting, updating, deleting and listing them."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection, Row
from palaver_server.database.paging import (
    KeyRange,
    Page,
    last_position,
    listing,
    listing_in_order,
)
from palaver_server.database.pool import Pool
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement, StatementTemplate, set_timeout
from palaver_server.database.timestamps import PgTimestamp, as_datetime
from palaver_server.errors import AlreadyExists, NotFound
from palaver_server.store.access_conditions import accessible
from palaver_server.store.expected import ANY, NONE_LIVE, Expected
from palaver_server.store.expiry import expire_sessions_of
from palaver_server.store.listing import ListingTemplates, read_last_position, read_page


class UserRow(NamedTuple):
    """A live user. `metadata` is JSON text."""

    user_id: str
    id: int
    email: str
    first_name: str
    last_name: str
    metadata: str
    created_at: PgTimestamp
    updated_at: PgTimestamp
    revision: int

    @property
    def position(self) -> int:
        """The listing position."""
        return self.id


class UserFilter(NamedTuple):
    """The filter of a listing, by the given fields. `metadata` is a SQL/JSON path predicate."""

    user_id_prefix: str | None = None
    user_ids: list[str] | None = None
    email: str | None = None
    metadata: str | None = None


class DeletedUser(NamedTuple):
    """The time of a delete, and how many sessions and messages it deleted."""

    deleted_at: PgTimestamp
    sessions_deleted: int
    messages_deleted: int


COLUMNS = """
    user_id, id, email, first_name, last_name, metadata::text, created_at, updated_at, revision
"""

# Upper bound of a row's size as a protobuf message, in bytes.
SIZE = """
    octet_length(user_id) + octet_length(email) + octet_length(first_name)
    + octet_length(last_name) + 4 * octet_length(metadata) + 128
"""

EVERY_USER = UserFilter()

# An attempt fails if the user is created or deleted at the same time.
_MAX_ATTEMPTS = 10


class UserStore:
    """The queries that read and write users. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.

    Args:
        reader: Runs the reads; None: the pool.
        filter_timeout: Maximum seconds for a statement with a caller's path.
    """

    def __init__(
        self, pool: Pool, reader: Reader | None = None, *, filter_timeout: float = 10
    ) -> None:
        self._pool = pool
        self._reader = reader or pool
        self._set_filter_timeout = (set_timeout(filter_timeout),)

    # A complete live user is left as it is, and the statement returns no row. A row to insert takes
    # a listing position even if it conflicts, so there is none for a user that is live when
    # earlier writes to it have ended. If it conflicts, the user is deleted, or was created as a
    # placeholder meanwhile.
    ADD_USER = Statement(
        "users.add",
        f"""
        WITH completed AS (
            UPDATE users u SET filled_in = true, email = %(email)s, first_name = %(first_name)s,
                last_name = %(last_name)s, metadata = %(metadata)s::jsonb,
                created_at = coalesce(%(created_at)s::timestamptz, u.created_at),
                updated_at = greatest(u.updated_at, now())
            WHERE user_id = %(user_id)s AND deleted_at IS NULL AND NOT filled_in
                AND {accessible("u.user_id")}
            RETURNING {COLUMNS}
        ), started AS (
            INSERT INTO users AS u
                (user_id, filled_in, email, first_name, last_name, metadata, created_at)
            SELECT
                %(user_id)s, true, %(email)s, %(first_name)s, %(last_name)s, %(metadata)s::jsonb,
                coalesce(%(created_at)s::timestamptz, now())
            WHERE NOT EXISTS (SELECT 1 FROM completed) AND NOT EXISTS (
                SELECT 1 FROM users WHERE user_id = %(user_id)s AND deleted_at IS NULL AND filled_in
                FOR NO KEY UPDATE
            )
            ON CONFLICT (user_id) DO UPDATE SET
                id = CASE WHEN u.deleted_at IS NULL THEN u.id ELSE excluded.id END,
                filled_in = excluded.filled_in,
                email = excluded.email,
                first_name = excluded.first_name,
                last_name = excluded.last_name,
                metadata = excluded.metadata,
                created_at = coalesce(
                    %(created_at)s::timestamptz,
                    CASE WHEN u.deleted_at IS NULL THEN u.created_at
                        ELSE greatest(excluded.created_at, u.updated_at, u.deleted_at) END
                ),
                updated_at = greatest(excluded.updated_at, u.updated_at, u.deleted_at),
                deleted_at = NULL
            WHERE (u.deleted_at IS NOT NULL OR NOT u.filled_in) AND {accessible("u.user_id")}
            RETURNING {COLUMNS}
        )
        SELECT * FROM completed UNION ALL SELECT * FROM started
    """,
    )

    async def add_user(
        self, access: Access, user: UserRow, *, created_at: datetime | None = None
    ) -> UserRow:
        """Create a user, complete a placeholder, or start a deleted user again.

        Args:
            access: The caller's access scope.
            user: The user; the database sets its numbers and times.
            created_at: The time of its creation; None: now, or that of the placeholder.

        Raises:
            AlreadyExists: The user is live and complete.
        """
        async with self._pool.connection(access.principal) as connection:
            row = await self._start(connection, access, user, created_at)
        if row is None:
            raise AlreadyExists("User", user.user_id)
        return row

    async def _start(
        self,
        connection: Connection,
        access: Access,
        user: UserRow,
        created_at: datetime | None = None,
    ) -> UserRow | None:
        """Create, complete or start again a user; return None if there is a complete live one."""
        parameters = {
            **user._asdict(), "created_at": created_at, "access_user_id": access.user_id
        }  # fmt: skip
        started = await connection.fetch_one(self.ADD_USER, parameters)
        return UserRow._make(started) if started else None

    GET_USER = Statement(
        "users.get",
        f"""
        SELECT {COLUMNS} FROM users
        WHERE user_id = %(user_id)s AND deleted_at IS NULL AND {accessible("user_id")}
    """,
    )

    async def get_user(self, access: Access, user_id: str) -> UserRow:
        """Return a live user.

        Raises:
            NotFound: There is no such live user.
        """
        named = _named(access, user_id)
        row = await self._reader.read(
            lambda connection: connection.fetch_one(self.GET_USER, named), access.principal
        )
        return _found(user_id, row)

    # Concurrent merges run one after the other: each reads what the one before it wrote.
    LOCK_USER = Statement(
        "users.lock",
        f"""
        SELECT {COLUMNS}, filled_in FROM users
        WHERE user_id = %(user_id)s AND deleted_at IS NULL AND {accessible("user_id")}
        FOR NO KEY UPDATE
    """,
    )

    UPDATE_USER = Statement(
        "users.update",
        f"""
        UPDATE users
        SET filled_in = true, email = %(email)s, first_name = %(first_name)s,
            last_name = %(last_name)s, metadata = %(metadata)s::jsonb,
            updated_at = greatest(updated_at, statement_timestamp())
        WHERE user_id = %(user_id)s
        RETURNING {COLUMNS}
    """,
    )

    async def update_user(
        self,
        access: Access,
        user_id: str,
        change: Callable[[UserRow], UserRow],
        *,
        expected: Expected = ANY,
        or_add: bool = False,
    ) -> UserRow:
        """Update a user's email, names and metadata to those `change` returns, and complete it.

        The user is locked between the read and the write. An exception from `change` rolls back.
        If `change` changes nothing, nothing is written to a complete user.

        Args:
            access: The caller's access scope.
            user_id: The user's id.
            change: Returns the new user for the current one.
            expected: The state that the user must be in.
            or_add: Whether to create the user if it is not live; `change` is then applied to one
                that has only its id.

        Raises:
            NotFound: There is no such live user, or it is outside the access scope.
            StaleRevision: The user is in another state than the expected one.
        """
        is_accessible = access.user_id in (None, user_id)
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False),
        ):
            for _ in range(_MAX_ATTEMPTS):  # a user may be created in between
                locked = await connection.fetch_one(self.LOCK_USER, _named(access, user_id))
                if locked is not None:
                    return await change_locked_user(connection, locked, change, expected)
                if not (or_add and is_accessible):
                    break
                expected.check(revision=NONE_LIVE)
                added = await self._start(connection, access, change(blank_user(user_id)))
                if added is not None:
                    return added
            raise NotFound("User", user_id)

    # Excludes transactions that give the user a session: they hold FOR KEY SHARE.
    LOCK_FOR_DELETE = Statement("users.lock_for_delete", GET_USER.sql + " FOR UPDATE")

    # Includes deleted sessions that are restorable: they must not be restored with this user.
    OF_USER = """
        user_id = %(user_id)s
        AND (deleted_at IS NULL OR deleted_at IS NOT NULL AND NOT forgotten)
    """

    # Counts the locked row versions, not those of the statement's snapshot.
    LOCK_SESSIONS = Statement(
        "users.lock_sessions",
        f"""
        SELECT count(*) FILTER (WHERE deleted_at IS NULL) FROM (
            SELECT deleted_at FROM sessions WHERE {OF_USER}
            ORDER BY session_id
            FOR NO KEY UPDATE
        ) locked
    """,
    )

    # The timestamp of the whole delete: after all writes that the locks waited for.
    DELETE_USER = Statement(
        "users.delete",
        """
        UPDATE users SET deleted_at = statement_timestamp()
        WHERE user_id = %(user_id)s
        RETURNING deleted_at
    """,
    )

    DELETE_MESSAGES = Statement(
        "users.delete_messages",
        """
        UPDATE messages SET deleted_at = %(deleted_at)s
        WHERE deleted_at IS NULL AND session_id IN (
            SELECT session_id FROM sessions WHERE user_id = %(user_id)s AND deleted_at IS NULL
        )
    """,
        is_prepared=False,
    )

    DELETE_SESSIONS = Statement(
        "users.delete_sessions",
        f"""
        UPDATE sessions SET deleted_at = coalesce(deleted_at, %(deleted_at)s), forgotten = true
        WHERE {OF_USER}
    """,
    )

    async def delete_user(
        self, access: Access, user_id: str, expected: Expected = ANY
    ) -> DeletedUser:
        """Soft-delete a user, all its sessions and all their messages, with one timestamp.

        Sessions of the user that were deleted before are no longer restorable.

        Raises:
            NotFound: There is no such live user.
            StaleRevision: The user is in another state than the expected one.
        """
        parameters: dict[str, Any] = _named(access, user_id)
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False),
        ):
            locked = await connection.fetch_one(self.LOCK_FOR_DELETE, parameters)
            expected.check(revision=_found(user_id, locked).revision)
            await expire_sessions_of(connection, user_id)
            (sessions_deleted,) = await connection.fetch_one(self.LOCK_SESSIONS, parameters) or ()
            (deleted_at,) = await connection.fetch_one(self.DELETE_USER, parameters) or ()
            parameters["deleted_at"] = as_datetime(deleted_at)
            messages_deleted = await connection.run(self.DELETE_MESSAGES, parameters)
            await connection.fetch(self.DELETE_SESSIONS, parameters)
        return DeletedUser(deleted_at, sessions_deleted, messages_deleted)

    LIST_USERS = StatementTemplate("users.list", listing("users", COLUMNS, size=SIZE))
    LIST_USERS_IN_ORDER = StatementTemplate(
        "users.list", listing_in_order("users", COLUMNS, size=SIZE)
    )

    async def list_users(
        self,
        access: Access,
        key_range: KeyRange,
        *,
        limit: int,
        filter: UserFilter = EVERY_USER,
    ) -> Page[UserRow]:
        """List live users by listing position.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The statement exceeded its timeout.
        """
        rows = await read_page(
            self._reader,
            access,
            templates=ListingTemplates(self.LIST_USERS, self.LIST_USERS_IN_ORDER),
            key_range=key_range,
            limit=limit,
            filter=filter,
            set_filter_timeout=self._set_filter_timeout,
        )
        return Page.of(UserRow, rows)

    LAST_ID = Statement("users.last_id", last_position("users"))

    async def last_id(self, access: Access) -> int:
        """Return the last listing position in use, 0 if there is none; of all users."""
        return await read_last_position(self._reader, access, self.LAST_ID)


async def change_locked_user(
    connection: Connection,
    locked: Row,
    change: Callable[[UserRow], UserRow],
    expected: Expected = ANY,
) -> UserRow:
    """Update and complete a user that the transaction has locked, as `update_user` does.

    Args:
        connection: The connection of the transaction.
        locked: The row of `UserStore.LOCK_USER`.
        change: Returns the new user for the current one.
        expected: The state that the user must be in.

    Raises:
        StaleRevision: The user is in another state than the expected one.
    """
    *columns, is_complete = locked
    row = UserRow._make(columns)
    expected.check(revision=row.revision)
    changed = change(row)
    if is_complete and changed == row:
        return row
    updated = await connection.fetch_one(UserStore.UPDATE_USER, changed._asdict())
    return _found(row.user_id, updated)


def blank_user(user_id: str) -> UserRow:
    """Return a user that is to be created; the database sets its numbers and times."""
    return UserRow(user_id, 0, "", "", "", "{}", PgTimestamp(0), PgTimestamp(0), 0)


def _named(access: Access, user_id: str) -> dict[str, str | None]:
    """Return the parameters that find a user."""
    return {"user_id": user_id, "access_user_id": access.user_id}


def _found(user_id: str, row: Row | None) -> UserRow:
    if row is None:
        raise NotFound("User", user_id)
    return UserRow._make(row)
