"""Keyword search: what a text asks for, and the messages that match it, best first."""

from itertools import chain
from typing import NamedTuple

from palaver_server.auth.access import Access
from palaver_server.database.connection import Connection
from palaver_server.database.statement import Statement
from palaver_server.errors import NotFound
from palaver_server.search.keyword_ranking import RANKED, ranking_parts
from palaver_server.search.search_text import SearchText
from palaver_server.store.access_conditions import ACCESSIBLE_SESSION
from palaver_server.store.liveness import LIVE_SESSION
from palaver_server.store.message_filter import (
    ALL_MESSAGES,
    EVERY_MESSAGE,
    MessageFilter,
    Scope,
    SearchTemplate,
)
from palaver_server.store.messages import MessageKey

# Each term is compared with every matching message.
MAX_TERMS = 32

# Grams that are highlighted: each is compared with every character of a content.
_MAX_GRAMS = 128


class Hit(NamedTuple):
    """A message that a search found, and its score from 0 to 1."""

    key: MessageKey
    score: float


class KeywordQuery(NamedTuple):
    """A parsed text, as PostgreSQL's full text search takes it.

    Attributes:
        any_term: A tsquery that matches any of the terms.
        language: The search language.
        terms: A tsquery for each word or phrase to find; at most 32.
        match: A tsquery that the results match; empty: there are no results.
        is_plain: Whether no term is required or excluded.
        grams: The parts of the terms that are one or two characters of a script without spaces.
    """

    language: str
    terms: list[str]
    match: str
    any_term: str
    is_plain: bool
    grams: list[str]


class KeywordStore:
    """The queries of keyword search.

    Its methods raise psycopg's errors, for the connection's owner to translate.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # A text is compared with unfolded words too, as long as the index may have some.
    READ_TEXT = Statement(
        "search.read_text",
        f"""
        SELECT %(session_id)s::text IS NULL OR EXISTS (
                SELECT 1 FROM sessions s
                WHERE session_id = %(session_id)s AND {LIVE_SESSION} AND {ACCESSIBLE_SESSION}
            ), words, phrases, ARRAY(
                SELECT DISTINCT gram[1]
                FROM regexp_matches(
                    array_to_string(words || phrases, ' '),
                    '''(' || search_unspaced() || '{{1,2}})''', 'g'
                ) AS gram
            )
        FROM (
            SELECT ARRAY(SELECT search_terms(%(words)s, %(language)s::regconfig)) || ARRAY(
                SELECT search_unfolded_terms(%(words)s, %(language)s::regconfig)
                WHERE has_unfolded
            ) AS words, ARRAY(
                SELECT CASE WHEN has_unfolded
                    THEN search_phrase(phrase, %(language)s::regconfig)
                        || search_unfolded_phrase(phrase, %(language)s::regconfig)
                    ELSE search_phrase(phrase, %(language)s::regconfig) END::text
                FROM unnest(%(phrases)s::text[]) WITH ORDINALITY AS phrases (phrase, number)
                ORDER BY number
            ) AS phrases
            FROM (
                SELECT EXISTS (SELECT 1 FROM search_index WHERE has_unfolded) AS has_unfolded
            ) search_index
        ) parts
    """,
    )

    async def read_text(
        self, access: Access, text: str, *, language: str = "english", scope: Scope = ALL_MESSAGES
    ) -> KeywordQuery:
        """Parse a text in a search language.

        Raises:
            NotFound: The scope is a session that is not live.
        """
        parsed = SearchText.parse(text)
        phrases = [*chain.from_iterable(parsed.required), *parsed.excluded]
        parameters = {
            "session_id": scope.session_id,
            "access_user_id": access.user_id,
            "language": language,
            "words": parsed.words,
            "phrases": phrases,
        }
        row = await self._connection.fetch_one(self.READ_TEXT, parameters)
        is_live, words, queries, grams = row or ()
        if not is_live:
            raise NotFound("Session", scope.session_id or "")
        return _keyword_query(
            parsed, language, words, dict(zip(phrases, queries, strict=True)), grams
        )

    RANK = SearchTemplate(
        "search.rank",
        f"""
        {RANKED}
        SELECT session_id, sequence, score FROM ranked
        ORDER BY score DESC, session_id, sequence DESC
    """,
        ranking_parts,
    )

    async def rank(
        self,
        access: Access,
        query: KeywordQuery,
        *,
        limit: int,
        scope: Scope = ALL_MESSAGES,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> list[Hit]:
        """Return the live messages that match a query, best first."""
        accessible = scope.within(access)
        statement = self.RANK.of(access, accessible, filter)
        parameters = {
            **query._asdict(), **accessible.parameters, **filter.given, "limit": limit
        }  # fmt: skip
        rows = await self._connection.fetch(statement, parameters)
        return [Hit(MessageKey(*row[:2]), row[2]) for row in rows]


def _keyword_query(
    parsed: SearchText,
    language: str,
    words: list[str],
    phrases: dict[str, str],
    grams: list[str],
) -> KeywordQuery:
    """Combine tsqueries. The tsquery of a phrase without words is empty."""
    required = [[phrases[text] for text in choice if phrases[text]] for choice in parsed.required]
    excluded = [phrases[text] for text in parsed.excluded if phrases[text]]
    terms = [*dict.fromkeys([*(query for choice in required for query in choice), *words])]
    choices = [choice for choice in required if choice] or [terms[:MAX_TERMS]]
    parts = [f"({' | '.join(choice)})" for choice in choices if choice]
    if parts:
        parts += [f"!({query})" for query in excluded]
    kept = terms[:MAX_TERMS]
    return KeywordQuery(
        language=language,
        terms=kept,
        match=" & ".join(parts),
        any_term=" | ".join(kept),
        is_plain=not (excluded or any(required)),
        grams=[gram for gram in grams if any(f"'{gram}'" in term for term in kept)][:_MAX_GRAMS],
    )
