"""Search results: the SQL that reads what a search found, and the newest messages."""

from collections.abc import Sequence
from typing import NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection, Row
from palaver_server.database.paging import MAX_PAGE_BYTES
from palaver_server.database.statement import Statement, StatementTemplate
from palaver_server.search.keyword_ranking import RANKED, ranking_parts
from palaver_server.search.keyword_store import Hit, KeywordQuery
from palaver_server.search.snippet import MATCH_END, MATCH_START
from palaver_server.store.access_conditions import ACCESSIBLE_MESSAGE
from palaver_server.store.message_filter import (
    ALL_MESSAGES,
    EVERY_MESSAGE,
    AccessibleScope,
    MessageFilter,
    Scope,
    SearchTemplate,
)
from palaver_server.store.messages import (
    KEYS,
    MessageKey,
    MessageParts,
    MessageRow,
    key_parameters,
)

# Maximum words of a message from which its likeness to others is computed.
_MAX_WORDS = 256


class FoundMessage(NamedTuple):
    """A message that a search found, its score from 0 to 1, and its marked beginning.

    `marked` and `removed` are the arguments of `snippet`.
    """

    session_id: str
    score: float
    marked: str
    removed: str
    message: MessageRow


# The newest messages that pass the filter.
_NEWEST = """
    SELECT m.created_at, m.session_id, m.sequence FROM {source}
    WHERE {condition}
    ORDER BY m.created_at DESC, m.session_id, m.sequence DESC
    LIMIT %(limit)s
"""

# For a bound caller: the path is evaluated on all messages of the scope. Whether it fails must
# not depend on the plan, which depends on everybody's messages: one that reads the newest first
# would stop at the limit.
_NEWEST_OF_ALL = """
    WITH passing AS MATERIALIZED (
        SELECT m.created_at, m.session_id, m.sequence FROM {source}
        WHERE {condition}
    )
    SELECT created_at, session_id, sequence FROM passing
    ORDER BY created_at DESC, session_id, sequence DESC
    LIMIT %(limit)s
"""


def _newest_parts(access: Access, scope: AccessibleScope, filter: MessageFilter) -> dict[str, str]:
    newest = _NEWEST if access.user_id is None else _NEWEST_OF_ALL
    condition = filter.sql(access, scope.sql.condition)
    return {"newest": newest.format(source=scope.sql.source, condition=condition)}


# Reads the messages of `hits`, best first, as far as they fit a response. ts_headline gets what the
# keyword index gets, so that it finds the same words: the beginning of the content, folded, which
# removes marks.
_READ_HITS = f"""
    SELECT session_id, score, ts_headline(
            %(language)s::regconfig, search_highlightable(content), %(any_term)s::tsquery,
            'HighlightAll = true, StartSel = {MATCH_START}, StopSel = {MATCH_END}'
        ), regexp_replace(left(content, 65536), '[^' || search_marks() || ']+', '', 'g'),
        {{columns}}
    FROM (
        SELECT m.*, number, score, row_number() OVER best AS place,
            sum({{row_size}}) OVER best AS size
        FROM hits JOIN messages m USING (session_id, sequence)
        WHERE {ACCESSIBLE_MESSAGE}
        WINDOW best AS (ORDER BY number)
    ) m
    WHERE place = 1 OR size <= {MAX_PAGE_BYTES}
    ORDER BY number
"""


def _parts(*, without_payload: bool) -> dict[str, str]:
    """Return the parts that fill in the placeholders of _READ_HITS."""
    parts = MessageParts.of(without_payload=without_payload)
    return {"columns": parts.columns, "row_size": parts.size}


_WITH_PAYLOAD = _parts(without_payload=False)
_WITHOUT_PAYLOAD = _parts(without_payload=True)


class ResultStore:
    """The queries that read the messages of a search.

    Its methods raise psycopg's errors, for the connection's owner to translate.

    Args:
        without_payload: Whether to return messages without their payloads.
    """

    def __init__(self, connection: Connection, *, without_payload: bool = False) -> None:
        self._connection = connection
        self._parts = _WITHOUT_PAYLOAD if without_payload else _WITH_PAYLOAD

    NEWEST = SearchTemplate(
        "search.newest",
        """
        WITH newest AS MATERIALIZED ({newest})
        SELECT session_id, sequence FROM newest
        ORDER BY created_at DESC, session_id, sequence DESC
    """,
        _newest_parts,
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
        statement = self.NEWEST.of(access, accessible, filter)
        parameters = {**accessible.parameters, **filter.given, "limit": limit}
        rows = await self._connection.fetch(statement, parameters)
        return [Hit(MessageKey._make(row), 1) for row in rows]

    GET_NEWEST = SearchTemplate(
        "search.get_newest",
        f"""
        WITH newest AS MATERIALIZED ({{newest}}), hits AS MATERIALIZED (
            SELECT session_id, sequence, 1::float8 AS score, row_number() OVER (
                ORDER BY created_at DESC, session_id, sequence DESC
            ) AS number
            FROM newest
        )
        {_READ_HITS}
    """,
        _newest_parts,
    )

    async def get_newest(
        self,
        access: Access,
        query: KeywordQuery,
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> list[FoundMessage]:
        """Return what `get_messages` returns for the hits of `newest`."""
        accessible = scope.within(access)
        statement = self.GET_NEWEST.of(access, accessible, filter, **self._parts)
        parameters = {
            **accessible.parameters,
            **filter.given,
            "limit": limit,
            "language": query.language,
            "any_term": query.any_term,
        }
        return _found(await self._connection.fetch(statement, parameters))

    GET_BEST = SearchTemplate(
        "search.get_best",
        f"""
        {RANKED}, hits AS MATERIALIZED (
            SELECT session_id, sequence, score,
                row_number() OVER (ORDER BY score DESC, session_id, sequence DESC) AS number
            FROM ranked WHERE score >= %(min_score)s::float8
        )
        {_READ_HITS}
    """,
        ranking_parts,
    )

    async def get_best(  # noqa: PLR0913 - all but the first two by name
        self,
        access: Access,
        query: KeywordQuery,
        *,
        limit: int,
        min_score: float = 0,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> list[FoundMessage]:
        """Return what `get_messages` returns for the hits of `KeywordStore.rank`.

        Those with a score below `min_score` are left out.
        """
        accessible = scope.within(access)
        statement = self.GET_BEST.of(access, accessible, filter, **self._parts)
        parameters = {
            **query._asdict(),
            **accessible.parameters,
            **filter.given,
            "limit": limit,
            "min_score": min_score,
        }
        return _found(await self._connection.fetch(statement, parameters))

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

    GET_MESSAGES = StatementTemplate(
        "search.get_results",
        f"""
        WITH hits AS MATERIALIZED (
            SELECT * FROM unnest(
                %(session_ids)s::text[], %(sequences)s::bigint[], %(scores)s::float8[]
            ) WITH ORDINALITY AS hits (session_id, sequence, score, number)
        )
        {_READ_HITS}
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
            "scores": [float(hit.score) for hit in hits],
            "language": query.language,
            "any_term": query.any_term,
            "access_user_id": access.user_id,
        }
        statement = self.GET_MESSAGES.fill(is_prepared=True, **self._parts)
        return _found(await self._connection.fetch(statement, parameters))


def _found(rows: Sequence[Row]) -> list[FoundMessage]:
    return [
        FoundMessage(session_id, score, marked, removed, MessageRow._make(columns))
        for session_id, score, marked, removed, *columns in rows
    ]
