"""Found messages: the SQL that reads what a search found, and what it finds without a text."""

from collections.abc import Sequence
from typing import NamedTuple

from server.principal import bound_user
from server.store.message_filter import EVERY_MESSAGE, EVERYTHING, MessageFilter, Scope
from server.store.messages import COLUMNS, KEYS, SIZE, Key, MessageRow, key_parameters
from server.store.metadata_path import checked_path
from server.store.ownership import VISIBLE_MESSAGE
from server.store.page import MAX_PAGE_BYTES
from server.store.pool import Pool

# Around a word that was looked for. No character that is left of a content is one of them.
WORD_START = "\x02"
WORD_END = "\x03"


class FoundMessage(NamedTuple):
    """A live message.

    `marked` is the content as far as it is searched, a space for each sign between words,
    with WORD_START and WORD_END around the words that were looked for.
    """

    key: Key
    marked: str
    message: MessageRow


class FoundStore:
    """Reads messages. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    NEWEST = """
        SELECT m.session_id, m.sequence FROM {source}
        WHERE {condition}
        ORDER BY m.created_at DESC, m.session_id, m.sequence DESC
        LIMIT %(limit)s
    """

    # For a bound caller: the path is evaluated on all messages of the scope. Whether it fails must
    # not depend on the plan, which depends on everybody's messages: one that reads the newest
    # first would stop at the limit.
    NEWEST_OF_ALL = """
        WITH passing AS MATERIALIZED (
            SELECT m.created_at, m.session_id, m.sequence FROM {source}
            WHERE {condition}
        )
        SELECT session_id, sequence FROM passing
        ORDER BY created_at DESC, session_id, sequence DESC
        LIMIT %(limit)s
    """

    async def newest(
        self, *, limit: int, scope: Scope = EVERYTHING, filter: MessageFilter = EVERY_MESSAGE
    ) -> list[Key]:
        """Gets the live messages that pass a filter, the newest `created_at` first.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The search takes longer than it may.
        """
        newest = self.NEWEST if bound_user() is None else self.NEWEST_OF_ALL
        statement = newest.format(
            source=scope.sql.source, condition=filter.sql(scope.sql.condition)
        )
        parameters = {**scope.parameters, **filter.given, "limit": limit}
        async with (
            self._pool.searching(everything=scope.is_everything) as connection,
            checked_path(connection, filter.metadata),
        ):
            rows = await connection.fetch(statement, parameters, prepare=False)
            return [Key._make(row) for row in rows]

    GET_WORDS = f"""
        SELECT session_id, sequence, tsvector_to_array(words)
        FROM {KEYS} JOIN messages m USING (session_id, sequence)
        WHERE {VISIBLE_MESSAGE}
    """

    async def get_words(self, keys: Sequence[Key]) -> dict[Key, frozenset[str]]:
        """Gets the different words of those of the messages that are live."""
        parameters = {**key_parameters(keys), "bound_user": bound_user()}
        async with self._pool.connection() as connection:
            rows = await connection.fetch(self.GET_WORDS, parameters)
            return {Key(*row[:2]): frozenset(row[2]) for row in rows}

    # ts_headline looks for words as the index has them: in the content as it was indexed.
    GET_MESSAGES = f"""
        SELECT session_id, ts_headline(
                search_spaced(left(content, 65536)), %(query)s::tsquery,
                'HighlightAll = true, StartSel = {WORD_START}, StopSel = {WORD_END}'
            ), {COLUMNS}
        FROM (
            SELECT m.*, number, row_number() OVER best AS place, sum({SIZE}) OVER best AS size
            FROM {KEYS} JOIN messages m USING (session_id, sequence)
            WHERE {VISIBLE_MESSAGE}
            WINDOW best AS (ORDER BY number)
        ) m
        WHERE place = 1 OR size <= {MAX_PAGE_BYTES}
        ORDER BY number
    """

    async def get_messages(self, keys: Sequence[Key], *, query: str) -> list[FoundMessage]:
        """Gets those of the messages that are live, in the order of the keys.

        As many as fit a response; the words of `query`, a tsquery, are marked in them.
        """
        async with self._pool.connection() as connection:
            parameters = {**key_parameters(keys), "query": query, "bound_user": bound_user()}
            found = await connection.fetch(self.GET_MESSAGES, parameters)
            rows = [(*row[:2], MessageRow._make(row[2:])) for row in found]
            return [FoundMessage(Key(row[0], row[2].sequence), row[1], row[2]) for row in rows]
