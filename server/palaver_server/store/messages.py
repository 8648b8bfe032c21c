"""Messages: listing, getting, updating and deleting them.

Every write to a session's messages first locks the session's row: writes to a session run one
after the other, and do not deadlock. A live message belongs to a live session: deleting a session
deletes its messages.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection, Row
from palaver_server.database.metadata_path import checked_path
from palaver_server.database.paging import MAX_PAGE_BYTES, KeyRange, Page
from palaver_server.database.pool import Pool
from palaver_server.database.reader import Reader
from palaver_server.database.statement import Statement, StatementTemplate, set_timeout
from palaver_server.database.timestamps import PgTimestamp
from palaver_server.errors import FieldViolation, InvalidRequest, NotFound
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION
from palaver_server.store.embedding_queue import NO_QUEUE, EmbeddingQueue
from palaver_server.store.expected import ANY, Expected
from palaver_server.store.expiry import extend_session
from palaver_server.store.listing import page_parameters
from palaver_server.store.liveness import LIVE_SESSION
from palaver_server.store.message_filter import EVERY_MESSAGE, MessageFilter
from palaver_server.store.sessions import lock_session


class MessageKey(NamedTuple):
    """The primary key of a message."""

    session_id: str
    sequence: int


COUNT_MESSAGES = Statement(
    "messages.count", "SELECT count(*) FROM messages WHERE deleted_at IS NULL"
)

# The keys of messages as a table, numbered in their order.
KEYS = """
    unnest(%(session_ids)s::text[], %(sequences)s::bigint[])
    WITH ORDINALITY AS keys (session_id, sequence, number)
"""


def key_parameters(keys: Sequence[MessageKey]) -> dict[str, list[Any]]:
    """Return the parameters of KEYS."""
    return {
        "session_ids": [key.session_id for key in keys],
        "sequences": [key.sequence for key in keys],
    }


def live_by_id(value: str) -> str:
    """Return the SQL of a value of the live message `m` that has the id of `ids`, or NULL.

    The unique index finds it. With a join or `= ANY`, statistics of short sessions make PostgreSQL
    read whole sessions, also long ones.
    """
    return f"""(
        SELECT {value} FROM messages m
        WHERE m.session_id = %(session_id)s AND m.message_id = ids.message_id
            AND m.deleted_at IS NULL
    )"""


class MessageRow(NamedTuple):
    """A live message. `metadata` is JSON text; a `token_count` of 0 is unknown.

    The payload is None if there is none, or if it was not asked for.
    """

    message_id: str
    sequence: int
    role: str
    content: str
    token_count: int
    metadata: str
    created_at: PgTimestamp
    updated_at: PgTimestamp
    revision: int
    payload: bytes | None = None
    payload_type: str | None = None

    @property
    def position(self) -> int:
        """The listing position."""
        return self.sequence


# Maximum size of content, payload and encoded metadata together, and of the other encoded fields.
MAX_MESSAGE_BYTES = 3584 * 1024
_MAX_OTHER_BYTES = 2048

_COLUMNS = """
    m.message_id, m.sequence, m.role, m.content, m.token_count, m.metadata::text,
    m.created_at, m.updated_at, m.revision
"""
COLUMNS = f"{_COLUMNS}, m.payload, m.payload_type"

_SIZE = """
    octet_length(message_id) + octet_length(role) + octet_length(content)
    + 4 * octet_length(metadata::text) + coalesce(octet_length(payload_type), 0) + 128
"""

_STORED = "octet_length(content) + octet_length(metadata::text)"

_PAYLOAD_FIELDS = slice(MessageRow._fields.index("payload"), None)


class MessageParts(NamedTuple):
    """The parts of a statement that reads messages `m`.

    Attributes:
        columns: The columns of MessageRow.
        size: An upper bound of a row's size as a protobuf message, in bytes. PostgreSQL knows the
            size of a payload without reading it.
        stored: The stored size of what may be large, in bytes.
    """

    columns: str
    size: str
    stored: str

    @staticmethod
    def of(*, without_payload: bool) -> "MessageParts":
        """Return the parts for messages with or without their payloads."""
        return _WITHOUT_PAYLOAD if without_payload else _WITH_PAYLOAD


_WITH_PAYLOAD = MessageParts(
    columns=COLUMNS,
    size=f"""least(
        {MAX_MESSAGE_BYTES + _MAX_OTHER_BYTES}, {_SIZE} + coalesce(octet_length(payload), 0)
    )""",
    stored=f"{_STORED} + coalesce(octet_length(payload), 0)",
)
_WITHOUT_PAYLOAD = MessageParts(
    columns=f"{_COLUMNS}, NULL::bytea, m.payload_type", size=_SIZE, stored=_STORED
)


# Maximum size of the text that is read to find out whether it fits a response of 4 MiB, in total
# and by one statement. Metadata can be smaller there than as JSON, but not by this factor unless
# it is made up for it.
_MAX_DELETED_BYTES = 64 * 1024 * 1024
_MAX_DELETED_BYTES_PER_STATEMENT = 4 * 1024 * 1024


class Selection(NamedTuple):
    """A selection of messages, by one of the fields."""

    message_ids: Sequence[str] = ()
    first_n: int = 0
    last_n: int = 0

    @property
    def field(self) -> str:
        """The field that is given."""
        return "message_ids" if self.message_ids else "first_n" if self.first_n else "last_n"

    def too_large(self) -> FieldViolation:
        """Return the violation that the deleted messages do not fit the response."""
        return FieldViolation(
            self.field,
            "the deleted messages must fit a response of 4 MiB; delete fewer at once",
        )


_IN_ORDER = """
    SELECT * FROM messages
    WHERE session_id = s.session_id AND deleted_at IS NULL
        AND sequence > %(after)s AND sequence < %(before)s AND {condition}
    ORDER BY sequence {direction}
"""


def passing_messages(
    access: Access, filter: MessageFilter, *, direction: str, condition: str = "true"
) -> str:
    """Return the SQL that selects the live messages of the session `s` that pass a filter.

    They are those in a key range, in its order. Join them by LATERAL: no condition of a caller is
    then evaluated on the messages of a session outside its access scope.

    Args:
        access: The caller's access scope.
        filter: The filter.
        direction: The order, `ASC` or `DESC`.
        condition: A condition of the code, evaluated before the filter.
    """
    in_order = _IN_ORDER.format(direction=direction, condition=condition)
    if filter == EVERY_MESSAGE:
        return in_order
    # LIMIT, of all rows: PostgreSQL reads the messages in order before it evaluates the filter.
    # Whether a path fails must not depend on the plan, which depends on all users' messages.
    return f"""
        SELECT * FROM ({in_order} LIMIT {2**63 - 1}) m
        WHERE {filter.sql(access, "m.deleted_at IS NULL")}
        ORDER BY sequence {direction}
    """


class MessageStore:
    """The queries that read and write messages. Each method is one transaction.

    Every method raises NotFound if the session is not live, and DatabaseUnavailable and
    NoConnectionInTime as the pool does.

    Args:
        queue: The queue of messages that wait for a vector.
        reader: Runs the reads; None: the pool.
        language: The search language.
        filter_timeout: Maximum seconds for a statement with a caller's path.
    """

    def __init__(
        self,
        pool: Pool,
        queue: EmbeddingQueue = NO_QUEUE,
        reader: Reader | None = None,
        *,
        language: str = "english",
        filter_timeout: float = 10,
    ) -> None:
        self._pool = pool
        self._reader = reader or pool
        self._queue = queue
        self._language = language
        self._set_filter_timeout = (set_timeout(filter_timeout),)

    # Joined to the session: no row means no session, and a row of NULLs an empty page.
    LIST_MESSAGES = StatementTemplate(
        "messages.list",
        f"""
        SELECT has_more, {{columns}}
        FROM sessions s LEFT JOIN LATERAL (
            SELECT *,
                lead(true, 1, false) OVER listing AS has_more,
                row_number() OVER listing AS number,
                sum({{size}}) OVER listing AS total_size
            FROM ({{passing}} LIMIT %(limit)s + 1) candidates
            WINDOW listing AS (ORDER BY sequence {{direction}})
        ) m ON number = 1 OR number <= %(limit)s AND total_size <= {MAX_PAGE_BYTES}
        WHERE s.session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
        ORDER BY m.sequence {{direction}}
    """,
    )

    async def list_messages(  # noqa: PLR0913 - all but the first three by name
        self,
        access: Access,
        session_id: str,
        key_range: KeyRange,
        *,
        limit: int,
        filter: MessageFilter = EVERY_MESSAGE,
        without_payload: bool = False,
    ) -> Page[MessageRow]:
        """List the messages that pass a filter by sequence.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The statement exceeded its timeout.
        """
        parts = MessageParts.of(without_payload=without_payload)
        statement = self.LIST_MESSAGES.fill(
            is_prepared=filter == EVERY_MESSAGE,  # a generic plan is bad for most filters
            passing=passing_messages(access, filter, direction=key_range.direction),
            direction=key_range.direction,
            columns=parts.columns,
            size=parts.size,
        )
        parameters = {
            "session_id": session_id,
            **page_parameters(access, key_range, limit),
            **filter.given,
        }

        async def fetch(connection: Connection) -> list[Row]:
            async with checked_path(connection, filter.metadata, access):
                return await connection.fetch(statement, parameters)

        snapshot = None if filter.metadata is None else self._set_filter_timeout
        rows = await self._reader.read(fetch, access.principal, snapshot=snapshot)
        if not rows:
            raise NotFound("Session", session_id)
        is_empty = rows[0][0] is None
        return Page.of(MessageRow, [] if is_empty else rows)

    GET_MESSAGE = StatementTemplate(
        "messages.get",
        f"""
        SELECT {{columns}}
        FROM sessions s LEFT JOIN messages m
            ON m.session_id = %(session_id)s AND m.message_id = %(message_id)s
            AND m.deleted_at IS NULL
        WHERE s.session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
    """,
    )

    async def get_message(
        self, access: Access, session_id: str, message_id: str, *, without_payload: bool = False
    ) -> MessageRow:
        """Return a message.

        Raises:
            NotFound: There is no such live session or message.
        """
        return await self._reader.read(
            lambda connection: self._get_message(
                connection, access, session_id, message_id, without_payload=without_payload
            ),
            access.principal,
        )

    UPDATE_MESSAGE = StatementTemplate(
        "messages.update",
        f"""
        WITH touched AS (
            UPDATE sessions SET updated_at = greatest(updated_at, statement_timestamp())
            WHERE session_id = %(session_id)s
        ){{enqueue}}
        UPDATE messages m
        SET role = %(role)s, content = %(content)s,
            words = search_words(%(content)s, %(language)s::regconfig),
            token_count = %(token_count)s, metadata = %(metadata)s::jsonb,{{payload}}
            updated_at = greatest(m.updated_at, statement_timestamp())
        WHERE m.session_id = %(session_id)s AND m.message_id = %(message_id)s
        RETURNING {_WITHOUT_PAYLOAD.columns}
    """,
    )

    # Left out if the payload stays as it is: writing it would copy it.
    SET_PAYLOAD = " payload = %(payload)b::bytea, payload_type = %(payload_type)s::text,"

    async def update_message(
        self,
        access: Access,
        session_id: str,
        message_id: str,
        change: Callable[[MessageRow], MessageRow],
        expected: Expected = ANY,
    ) -> MessageRow:
        """Update a message's fields to those that `change` returns.

        The session is locked between the read and the write. An exception from `change` rolls
        back. If `change` changes nothing, nothing is written.

        Raises:
            NotFound: There is no such live session or message.
            StaleRevision: The message is in another state than the expected one.
        """
        async with self._locked_session(access, session_id) as connection:
            row = await self._get_message(
                connection, access, session_id, message_id, without_payload=False
            )
            expected.check(revision=row.revision)
            changed = change(row)
            if changed == row:
                await extend_session(connection, session_id)
                return row
            parameters = {**changed._asdict(), "session_id": session_id, "language": self._language}
            is_kept = changed[_PAYLOAD_FIELDS] == row[_PAYLOAD_FIELDS]
            update = self.UPDATE_MESSAGE.fill(
                enqueue=self._queue.enqueue_one, payload="" if is_kept else self.SET_PAYLOAD
            )
            updated = await connection.fetch_one(update, parameters)
        self._queue.notify()
        return MessageRow._make(updated or ())._replace(payload=changed.payload)

    # An array: a row of the table would be copied with its content and payload.
    CHOOSE_MESSAGES = StatementTemplate(
        "messages.choose",
        f"""
        WITH named AS MATERIALIZED (
            SELECT {live_by_id("ARRAY[m.sequence, {stored}]")} AS m
            FROM (SELECT DISTINCT unnest(%(message_ids)s::text[]) AS message_id) ids
        )
        SELECT m[1], m[2] FROM named WHERE m IS NOT NULL
    """,
    )

    CHOOSE_FROM_AN_END = StatementTemplate(
        "messages.choose_from_an_end",
        """
        SELECT sequence, {stored} FROM messages
        WHERE session_id = %(session_id)s AND deleted_at IS NULL
        ORDER BY sequence {direction}
        LIMIT %(limit)s
    """,
    )

    # Returns the messages as they were: the snapshot is older than the update.
    DELETE_MESSAGES = StatementTemplate(
        "messages.delete",
        """
        WITH touched AS (
            UPDATE sessions SET updated_at = greatest(updated_at, statement_timestamp())
            WHERE session_id = %(session_id)s
        ), deleted AS (
            UPDATE messages SET deleted_at = statement_timestamp()
            WHERE session_id = %(session_id)s AND sequence = ANY(%(sequences)s)
        )
        SELECT {columns} FROM messages m
        WHERE m.session_id = %(session_id)s AND m.sequence = ANY(%(sequences)s)
        ORDER BY m.sequence
    """,
    )

    async def delete_messages(  # noqa: PLR0913 - one call
        self,
        access: Access,
        session_id: str,
        selection: Selection,
        check: Callable[[list[MessageRow]], Awaitable[None]],
        expected: Expected = ANY,
        *,
        without_payload: bool = False,
    ) -> None:
        """Soft-delete the messages with these ids, or the oldest or the newest.

        Calls `check` with the messages in portions, oldest first; an exception from it rolls back.

        Raises:
            NotFound: There is no such live session.
            StaleRevision: The session is in another state than the expected one.
            StaleLastSequence: As StaleRevision.
            InvalidRequest: The messages are far too large for a response.
        """
        parts = MessageParts.of(without_payload=without_payload)
        if selection.message_ids:
            choose = self.CHOOSE_MESSAGES.fill(stored=parts.stored)
        else:
            direction = "ASC" if selection.first_n else "DESC"
            choose = self.CHOOSE_FROM_AN_END.fill(stored=parts.stored, direction=direction)
        delete = self.DELETE_MESSAGES.fill(columns=parts.columns)
        parameters: dict[str, Any] = {
            "session_id": session_id,
            "message_ids": list(selection.message_ids),
            "limit": selection.first_n or selection.last_n,
        }
        async with self._locked_session(access, session_id, expected) as connection:
            chosen = await connection.fetch(choose, parameters)
            if not chosen:
                await extend_session(connection, session_id)
                return
            if sum(size for _, size in chosen) > _MAX_DELETED_BYTES:
                raise InvalidRequest(selection.too_large())
            for sequences in _portions(sorted(chosen)):
                parameters["sequences"] = sequences
                rows = await connection.fetch(delete, parameters)
                await check([MessageRow._make(row) for row in rows])

    async def _get_message(
        self,
        connection: Connection,
        access: Access,
        session_id: str,
        message_id: str,
        *,
        without_payload: bool,
    ) -> MessageRow:
        parameters = {
            "session_id": session_id,
            "message_id": message_id,
            "access_user_id": access.user_id,
        }
        columns = MessageParts.of(without_payload=without_payload).columns
        row = await connection.fetch_one(self.GET_MESSAGE.fill(columns=columns), parameters)
        if row is None:
            raise NotFound("Session", session_id)
        if row[0] is None:
            raise NotFound("Message", message_id)
        return MessageRow._make(row)

    @asynccontextmanager
    async def _locked_session(
        self, access: Access, session_id: str, expected: Expected = ANY
    ) -> AsyncIterator[Connection]:
        """Begin a transaction that holds the session's lock."""
        async with (
            self._pool.connection(access.principal) as connection,
            connection.in_transaction(has_timeout=False),
        ):
            row = await lock_session(connection, access, session_id)
            expected.check(revision=row.revision, last_sequence=row.last_sequence)
            yield connection


def _portions(chosen: Sequence[Row]) -> Iterator[list[int]]:
    """Split sequences, which come with the sizes of their messages, between statements."""
    portion: list[int] = []
    portion_size = 0
    for sequence, size in chosen:
        if portion and portion_size + size > _MAX_DELETED_BYTES_PER_STATEMENT:
            yield portion
            portion, portion_size = [], 0
        portion.append(sequence)
        portion_size += size
    yield portion
