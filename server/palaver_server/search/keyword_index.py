"""The index of words: the SQL that makes words of contents anew, in another language."""

import logging
from typing import NamedTuple

from psycopg import Error, errors

from palaver_server.database.connection import Connection
from palaver_server.database.pool import Pool
from palaver_server.errors import DatabaseUnusable
from palaver_server.store.messages import Key

_LOGGER = logging.getLogger(__name__)

_BEFORE_ALL = Key("", 0)

_LANGUAGES = "SELECT string_agg(cfgname, ', ' ORDER BY cfgname) FROM pg_ts_config"

_GET_LANGUAGE = """
    SELECT language, language::regconfig = %(language)s::regconfig, EXISTS (SELECT FROM messages)
    FROM search_index
"""

_SET_LANGUAGE = "UPDATE search_index SET language = %(language)s"


async def check_language(database_url: str, language: str) -> None:
    """Checks that a database has a language; warns if its words are of another one.

    Raises:
        DatabaseUnusable: It has not, or cannot be asked.
    """
    try:
        async with await Connection.connect(database_url) as connection:
            try:
                row = await connection.fetch_one(_GET_LANGUAGE, {"language": language})
            except (errors.UndefinedObject, errors.InvalidName, errors.SyntaxError):
                (languages,) = await connection.fetch_one(_LANGUAGES) or ()
                raise DatabaseUnusable(
                    f"the database has no text search configuration {language!r}; set"
                    f" PALAVER_SEARCH_LANGUAGE to one of {languages}"
                ) from None
            indexed, is_same, has_messages = row or ()
            if not is_same and not has_messages:
                await connection.execute(_SET_LANGUAGE, {"language": language})
            elif not is_same:
                _LOGGER.warning(
                    "words of %s are looked for, and those of the messages are of %s:"
                    " run palaver reindex",
                    language,
                    indexed,
                )
    except Error as error:
        reason = error.diag.message_primary or str(error)
        raise DatabaseUnusable(f"cannot use the database: {reason}") from error


class Step(NamedTuple):
    """A step of a walk over all messages: how many it came by, and the last one."""

    messages: int
    last: Key


class WordIndex:
    """Makes words anew. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    COUNT_MESSAGES = "SELECT count(*) FROM messages WHERE deleted_at IS NULL"

    async def count_messages(self) -> int:
        """Counts the live messages."""
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.COUNT_MESSAGES)
            return int(row[0]) if row else 0

    # What somebody writes at this moment is locked, and skipped: they write its words too.
    REINDEX = """
        WITH page AS MATERIALIZED (
            SELECT session_id, sequence FROM messages
            WHERE (session_id, sequence) > (%(session_id)s, %(sequence)s)
                AND deleted_at IS NULL
            ORDER BY session_id, sequence
            LIMIT %(limit)s
        ), stale AS (
            SELECT session_id, sequence FROM page JOIN messages m USING (session_id, sequence)
            WHERE m.words <> search_words(m.content)
            FOR NO KEY UPDATE OF m SKIP LOCKED
        ), reindexed AS (
            UPDATE messages m SET words = search_words(m.content)
            FROM stale
            WHERE m.session_id = stale.session_id AND m.sequence = stale.sequence
        )
        SELECT count(*) OVER (), session_id, sequence FROM page
        ORDER BY session_id DESC, sequence DESC
        LIMIT 1
    """

    async def reindex(self, *, limit: int, after: Key = _BEFORE_ALL) -> Step | None:
        """Makes the words of the next messages, in the language of the pool.

        Gives None when there are no more.
        """
        parameters = {**after._asdict(), "limit": limit}
        async with self._pool.connection() as connection:
            row = await connection.fetch_one(self.REINDEX, parameters)
            return Step(row[0], Key(*row[1:])) if row else None

    SET_LANGUAGE = """
        UPDATE search_index SET language = current_setting('default_text_search_config')
    """

    async def set_language(self) -> None:
        """Notes that all words are in the language of the pool."""
        async with self._pool.connection() as connection:
            await connection.execute(self.SET_LANGUAGE)
