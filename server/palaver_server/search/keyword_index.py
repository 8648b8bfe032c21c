"""The keyword index: `messages.words`, the words of each message in the search language.

Each write of a message computes its words. After a change of the language, a reindex computes
those of all messages again.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from psycopg import Error, errors

from palaver_server.database.connection import Connection
from palaver_server.database.error_translation import start_failure
from palaver_server.database.pool import Pool
from palaver_server.database.statement import Statement
from palaver_server.errors import DatabaseUnusable
from palaver_server.store.messages import COUNT_MESSAGES, MessageKey

_LOGGER = logging.getLogger(__name__)

_FIRST_KEY = MessageKey("", 0)  # before the key of every message

_LANGUAGES = Statement(
    "search_index.list_languages",
    "SELECT string_agg(cfgname, ', ' ORDER BY cfgname) FROM pg_ts_config",
)

# With its schema: which configuration a name alone means depends on the search path.
_FIND_LANGUAGE = Statement(
    "search_index.find_language",
    """
    SELECT format('%%I.%%I', nspname, cfgname)
    FROM pg_ts_config c JOIN pg_namespace n ON n.oid = cfgnamespace
    WHERE c.oid = %(language)s::regconfig
""",
)

_GET_LANGUAGE = Statement(
    "search_index.get_language",
    "SELECT language, has_unfolded, EXISTS (SELECT 1 FROM messages) FROM search_index",
)

_SET_LANGUAGE = Statement(
    "search_index.set_language",
    "UPDATE search_index SET language = %(name)s, has_unfolded = false",
    is_prepared=False,
)


async def check_language(database_url: str, language: str, *, read_only: bool = False) -> None:
    """Check that the database has the search language; warn if the index has to be rebuilt.

    The language of an index without messages is set, unless `read_only`.

    Raises:
        DatabaseUnusable: The database lacks the language, or cannot be asked.
    """
    user = ""
    try:
        async with await Connection.connect(database_url) as connection:
            user = connection.info.user
            try:
                name = await _find_language(connection, language)
            except (errors.UndefinedObject, errors.InvalidName, errors.SyntaxError):
                (languages,) = await connection.fetch_one(_LANGUAGES) or ()
                raise DatabaseUnusable(
                    f"the database has no text search configuration {language!r}; set"
                    f" PALAVER_SEARCH_LANGUAGE to one of {languages}"
                ) from None
            indexed, has_unfolded, has_messages = await connection.fetch_one(_GET_LANGUAGE) or ()
            if indexed != name and not has_messages and not read_only:
                await connection.run(_SET_LANGUAGE, {"name": name})
            elif indexed != name:
                _LOGGER.warning(
                    "the search language is %s, but messages are indexed in %s, so keyword search"
                    " misses some: run palaver reindex",
                    name,
                    indexed,
                )
            elif has_unfolded:
                _LOGGER.warning(
                    "messages of an earlier version are indexed by the locale of the database, so"
                    " keyword search misses some that differ in case: run palaver reindex"
                )
    except Error as error:
        raise start_failure(error, user) from error


async def _find_language(connection: Connection, language: str) -> str:
    row = await connection.fetch_one(_FIND_LANGUAGE, {"language": language})
    return str(row[0]) if row else language


class ReindexedPage(NamedTuple):
    """A page of messages that a reindex has passed: how many, and the key of the last one."""

    messages: int
    last: MessageKey


class KeywordIndex:
    """The computation of messages' words. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool, language: str) -> None:
        self._pool = pool
        self._language = language

    @asynccontextmanager
    async def _unbounded(self) -> AsyncIterator[Connection]:
        """Begin a transaction without a timeout: with one, too much could never be reindexed."""
        async with (
            self._pool.connection() as connection,
            connection.in_transaction(has_timeout=False),
        ):
            yield connection

    async def count_messages(self) -> int:
        """Count the live messages."""
        async with self._unbounded() as connection:
            row = await connection.fetch_one(COUNT_MESSAGES)
            return int(row[0]) if row else 0

    # SKIP LOCKED passes over messages that are being written: the write computes their words.
    REINDEX = Statement(
        "reindex.update_words",
        """
        WITH page AS MATERIALIZED (
            SELECT session_id, sequence FROM messages
            WHERE (session_id, sequence) > (%(session_id)s, %(sequence)s)
                AND deleted_at IS NULL
            ORDER BY session_id, sequence
            LIMIT %(limit)s
        ), stale AS (
            SELECT session_id, sequence, search_words(m.content, %(language)s::regconfig) AS words
            FROM page JOIN messages m USING (session_id, sequence)
            WHERE m.words <> search_words(m.content, %(language)s::regconfig)
            FOR NO KEY UPDATE OF m SKIP LOCKED
        ), reindexed AS (
            UPDATE messages m SET words = stale.words
            FROM stale
            WHERE m.session_id = stale.session_id AND m.sequence = stale.sequence
        )
        SELECT count(*) OVER (), session_id, sequence FROM page
        ORDER BY session_id DESC, sequence DESC
        LIMIT 1
    """,
    )

    async def reindex(self, *, limit: int, after: MessageKey = _FIRST_KEY) -> ReindexedPage | None:
        """Compute the words of the next page of messages.

        Returns:
            None if there are no more messages.
        """
        parameters = {**after._asdict(), "language": self._language, "limit": limit}
        async with self._unbounded() as connection:
            row = await connection.fetch_one(self.REINDEX, parameters)
            return ReindexedPage(row[0], MessageKey(*row[1:])) if row else None

    async def set_language(self) -> None:
        """Record that all messages are indexed, folded, in the search language."""
        async with self._pool.connection() as connection:
            name = await _find_language(connection, self._language)
            await connection.run(_SET_LANGUAGE, {"name": name})
