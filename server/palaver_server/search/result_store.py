"""Search results: the SQL that reads what a search found, and the newest messages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.paging import MAX_PAGE_BYTES
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.search.keyword_store import Hit, KeywordQuery
from palaver_server.search.snippet import MATCH_END, MATCH_START, snippet
from palaver_server.store.access_conditions import ACCESSIBLE_MESSAGE
from palaver_server.store.message_filter import ALL_MESSAGES, EVERY_MESSAGE, MessageFilter, Scope
from palaver_server.store.messages import (
    COLUMNS,
    KEYS,
    SIZE,
    MessageKey,
    MessageRow,
    key_parameters,
)

# Maximum words of a message from which its likeness to others is computed.
_MAX_WORDS = 256


@dataclass(frozen=True, slots=True)
class Result:
    """A message that a search found, its score from 0 to 1, and a part of its content."""

    session_id: str
    message: MessageRow
    score: float
    snippet: str


class FoundMessage(NamedTuple):
    """A message that a search found, its score, and the marked beginning of its content.

    `marked` is the argument of `snippet`.
    """

    session_id: str
    message: MessageRow
    score: float
    marked: str


def with_snippets(found: Iterable[FoundMessage], grams: Sequence[str]) -> Iterator[Result]:
    """Yield the results for messages that a search found."""
    for session_id, message, score, marked in found:
        yield Result(session_id, message, score, snippet(message.content, marked, grams))


class ResultStore:
    """The queries that read the messages of a search.

    Its methods raise psycopg's errors, for the connection's owner to translate.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    NEWEST = StatementTemplate(
        "search.newest",
        """
        SELECT m.session_id, m.sequence FROM {source}
        WHERE {condition}
        ORDER BY m.created_at DESC, m.session_id, m.sequence DESC
        LIMIT %(limit)s
    """,
    )

    # For a bound caller: the path is evaluated on all messages of the scope. Whether it fails must
    # not depend on the plan, which depends on everybody's messages: one that reads the newest
    # first would stop at the limit.
    NEWEST_OF_ALL = StatementTemplate(
        "search.newest",
        """
        WITH passing AS MATERIALIZED (
            SELECT m.created_at, m.session_id, m.sequence FROM {source}
            WHERE {condition}
        )
        SELECT session_id, sequence FROM passing
        ORDER BY created_at DESC, session_id, sequence DESC
        LIMIT %(limit)s
    """,
    )

    async def newest(
        self,
        access: Access,
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> list[Hit]:
        """Return the live messages that pass a filter, the newest `created_at` first."""
        accessible = scope.within(access)
        newest = self.NEWEST if access.user_id is None else self.NEWEST_OF_ALL
        statement = newest.fill(
            is_prepared=False,  # a generic plan is bad for most scopes and filters
            source=accessible.sql.source,
            condition=filter.sql(access, accessible.sql.condition),
        )
        parameters = {**accessible.parameters, **filter.given, "limit": limit}
        rows = await self._connection.fetch(statement, parameters)
        return [Hit(MessageKey._make(row), 1) for row in rows]

    # Of a long message, the words with the smallest hashes: samples of alike messages are alike.
    # One string: an array is slow to read.
    GET_WORDS = Statement(
        "search.get_words",
        f"""
        SELECT session_id, sequence, array_to_string(CASE
            WHEN length(words) <= {_MAX_WORDS} THEN tsvector_to_array(words)
            ELSE ARRAY(
                SELECT word FROM unnest(tsvector_to_array(words)) AS word
                ORDER BY hashtextextended(word, 0) LIMIT {_MAX_WORDS}
            ) END, E'\n')
        FROM {KEYS} JOIN messages m USING (session_id, sequence)
        WHERE {ACCESSIBLE_MESSAGE}
    """,
    )

    async def get_words(
        self, access: Access, keys: Sequence[MessageKey]
    ) -> dict[MessageKey, frozenset[str]]:
        """Return the distinct words of those of the messages that are live, or a sample."""
        parameters = {**key_parameters(keys), "access_user_id": access.user_id}
        rows = await self._connection.fetch(self.GET_WORDS, parameters)
        return {MessageKey(*row[:2]): frozenset(row[2].split("\n")) for row in rows}

    # ts_headline gets what the keyword index gets, so that it finds the same words: the beginning
    # of the content, with a space in place of each separator.
    GET_MESSAGES = Statement(
        "search.get_results",
        f"""
        SELECT number, session_id, ts_headline(
                %(language)s::regconfig, search_spaced(left(content, 65536)), %(query)s::tsquery,
                'HighlightAll = true, StartSel = {MATCH_START}, StopSel = {MATCH_END}'
            ), {COLUMNS}
        FROM (
            SELECT m.*, number, row_number() OVER best AS place, sum({SIZE}) OVER best AS size
            FROM {KEYS} JOIN messages m USING (session_id, sequence)
            WHERE {ACCESSIBLE_MESSAGE}
            WINDOW best AS (ORDER BY number)
        ) m
        WHERE place = 1 OR size <= {MAX_PAGE_BYTES}
        ORDER BY number
    """,
    )

    async def get_messages(
        self, access: Access, hits: Sequence[Hit], query: KeywordQuery
    ) -> list[FoundMessage]:
        """Return the messages of hits, in the same order: those that are live and fit a response.

        Args:
            access: The caller's access scope.
            hits: What was found.
            query: Its terms are highlighted in the snippets.
        """
        parameters = {
            **key_parameters([hit.key for hit in hits]),
            "language": query.language,
            "query": " | ".join(query.terms),
            "access_user_id": access.user_id,
        }
        rows = await self._connection.fetch(self.GET_MESSAGES, parameters)
        return [
            FoundMessage(session_id, MessageRow._make(columns), hits[number - 1].score, marked)
            for number, session_id, marked, *columns in rows
        ]
