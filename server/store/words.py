"""Words: the SQL that finds messages by what they say."""

from typing import NamedTuple

from server.errors import NotFound
from server.store.message_filter import EVERY_MESSAGE, EVERYTHING, MessageFilter, Scope
from server.store.messages import Key
from server.store.metadata_path import checked_path
from server.store.ownership import OWNED
from server.store.pool import Pool
from server.store.search_text import SearchText

# Each costs a look at every message that is found.
MAX_WORDS = 32


class Hit(NamedTuple):
    """A message that was found, and how good it is, from 0 to 1."""

    key: Key
    score: float


class WordQuery(NamedTuple):
    """What a text asks for, as PostgreSQL has it.

    Attributes:
        terms: A tsquery for each word or phrase that is looked for; at most 32.
        match: A tsquery for all messages that are found; empty: there are none.
        is_plain: Whether it is words alone: nothing is required, nothing excluded.
        grams: Those of the words that are one or two characters of an unspaced script.
    """

    terms: list[str]
    match: str
    is_plain: bool
    grams: list[str]


class WordStore:
    """Finds messages by their words. Each method is one transaction.

    Every method raises DatabaseUnavailable and NoConnectionInTime as the pool does.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    READ_TEXT = f"""
        SELECT %(session_id)s::text IS NULL OR EXISTS (
                SELECT FROM sessions s
                WHERE session_id = %(session_id)s AND deleted_at IS NULL AND {OWNED}
            ), words, phrases, ARRAY(
                SELECT DISTINCT gram[1]
                FROM regexp_matches(
                    array_to_string(words || phrases, ' '),
                    '''(' || search_unspaced() || '{{1,2}})''', 'g'
                ) AS gram
            )
        FROM (
            SELECT ARRAY(SELECT search_terms(%(words)s)) AS words, ARRAY(
                SELECT search_phrase(phrase)::text
                FROM unnest(%(phrases)s::text[]) WITH ORDINALITY AS phrases (phrase, number)
                ORDER BY number
            ) AS phrases
        ) parts
    """

    async def read_text(self, text: str, *, scope: Scope = EVERYTHING) -> WordQuery:
        """Reads a text in the language of the connection.

        Raises:
            NotFound: The scope is a session that is not live.
        """
        asked = SearchText.parse(text)
        phrases = [*(phrase for choice in asked.required for phrase in choice), *asked.excluded]
        parameters = {**scope.parameters, "words": asked.words, "phrases": phrases}
        async with self._pool.connection() as connection:
            read = await connection.fetch_one(self.READ_TEXT, parameters)
            found, words, queries, grams = read or ()
        if not found:
            raise NotFound("Session", scope.session_id or "")
        return _word_query(asked, words, dict(zip(phrases, queries, strict=True)), grams)

    # How good a message is, is reckoned from the messages that have any of the words:
    # `matched`. Each word that one of them has is a hit, with a share from 0 to 1: what
    # ts_rank makes of how often it is there, less in a long message (as BM25 has it). The
    # best 1,000 by these are looked at more closely, with the two messages before and the
    # two after each: a word counts where it is nearest, half as much for each step away.
    #
    # A word that is a message's role counts whole, and in that message alone.
    #
    # A word weighs as much as it is rare in the scope (BM25's inverse document frequency).
    # How many messages have it, in their content or as their role, is told by `matched`.
    MATCH = """
        WITH terms AS MATERIALIZED (
            SELECT term, number
            FROM unnest(%(terms)s::text[]::tsquery[]) WITH ORDINALITY AS terms (term, number)
        ), matched AS MATERIALIZED (
            SELECT m.session_id, m.sequence, m.role, m.words
            FROM {source} WHERE {condition}
        ), total AS MATERIALIZED (
            SELECT avg(length(words))::float8 AS length,
                greatest(({size}), count(*))::float8 AS messages
            FROM matched
        ), hits AS MATERIALIZED (
            SELECT session_id, sequence, number,
                rank / (rank + (1 - rank) * (0.5 + 0.5 * words / total.length)) AS share
            FROM (
                SELECT session_id, sequence, number, length(words) AS words,
                    least(ts_rank('{{1, 1, 1, 1}}', words, term), 1) AS rank
                FROM matched JOIN terms ON words @@ term
            ) ranked CROSS JOIN total
        ), said AS MATERIALIZED (
            SELECT number, count(share)::float8 AS messages
            FROM terms LEFT JOIN hits USING (number)
            GROUP BY number
        ), best AS MATERIALIZED (
            SELECT session_id, sequence
            FROM hits JOIN said USING (number) CROSS JOIN total
            GROUP BY session_id, sequence
            ORDER BY sum(share * {weight}) DESC, session_id, sequence DESC
            LIMIT 1000
        ), near AS MATERIALIZED (
            SELECT session_id, sequence + distance AS sequence, number,
                share * 0.5 ^ abs(distance) AS share, distance = 0 AS is_found
            FROM best JOIN hits USING (session_id, sequence)
                CROSS JOIN generate_series(-2, 2) AS distance
        ), around AS MATERIALIZED (
            SELECT session_id, sequence, role, passes
            FROM (SELECT DISTINCT session_id, sequence FROM near) keys CROSS JOIN LATERAL (
                SELECT m.role, {passes} AS passes FROM messages m
                WHERE m.session_id = keys.session_id AND m.sequence = keys.sequence
                    AND m.deleted_at IS NULL
                OFFSET 0 -- keeps it a look at each by its key
            ) message
        ), spoken AS MATERIALIZED (
            SELECT role, number
            FROM (SELECT DISTINCT role FROM around) roles JOIN terms ON search_words(role) @@ term
        ), weights AS MATERIALIZED (
            SELECT number, {weight} AS weight
            FROM (
                SELECT number, greatest(messages, (
                    SELECT count(*) FROM matched JOIN spoken USING (role)
                    WHERE spoken.number = said.number
                )) AS messages
                FROM said
            ) said CROSS JOIN total
        )
        SELECT session_id, sequence,
            sum(weight * share) / (SELECT sum(weight) FROM weights) AS score
        FROM (
            SELECT session_id, sequence, number, max(share) AS share, bool_or(is_found) AS is_found
            FROM (
                SELECT session_id, sequence, number, share, is_found FROM near
                UNION ALL
                SELECT session_id, sequence, number, 1, passes AND %(is_plain)s
                FROM around JOIN spoken USING (role)
            ) shares
            GROUP BY session_id, sequence, number
        ) shares JOIN weights USING (number)
        GROUP BY session_id, sequence
        HAVING bool_or(is_found)
        ORDER BY score DESC, session_id, sequence DESC
        LIMIT %(limit)s
    """

    WEIGHT = """
        ln(1 + (total.messages - said.messages + 0.5) / (said.messages + 0.5))
    """

    async def match(
        self,
        query: WordQuery,
        *,
        limit: int,
        scope: Scope = EVERYTHING,
        filter: MessageFilter = EVERY_MESSAGE,
    ) -> list[Hit]:
        """Gets the live messages that a query finds, the best first.

        Raises:
            InvalidRequest: `filter.metadata` is not a SQL/JSON path.
            DeadlineExceeded: The search takes longer than it may.
        """
        # In a session or of a user, all messages are looked at. The index on words knows no
        # scopes: `IS TRUE` hides it from the planner.
        matches = "m.words @@ %(match)s::tsquery"
        if not scope.is_everything:
            matches = f"({matches}) IS TRUE"
        statement = self.MATCH.format(
            source=scope.sql.source,
            condition=filter.sql(scope.sql.condition, matches),
            passes=filter.sql("m.deleted_at IS NULL"),
            size=scope.sql.size,
            weight=self.WEIGHT,
        )
        parameters = {**query._asdict(), **scope.parameters, **filter.given, "limit": limit}
        async with (
            self._pool.searching(everything=scope.is_everything) as connection,
            checked_path(connection, filter.metadata),
        ):
            # Planned anew for each query: one plan for all would be none for most.
            rows = await connection.fetch(statement, parameters, prepare=False)
            return [Hit(Key(*row[:2]), row[2]) for row in rows]


def _word_query(
    asked: SearchText, words: list[str], phrases: dict[str, str], grams: list[str]
) -> WordQuery:
    """Puts tsqueries together. That of a phrase without a word in it is empty."""
    required = [[phrases[text] for text in choice if phrases[text]] for choice in asked.required]
    excluded = [phrases[text] for text in asked.excluded if phrases[text]]
    terms = [*dict.fromkeys([*(query for choice in required for query in choice), *words])]
    choices = [choice for choice in required if choice] or [terms[:MAX_WORDS]]
    parts = [f"({' | '.join(choice)})" for choice in choices if choice]
    if parts:
        parts += [f"!({query})" for query in excluded]
    return WordQuery(
        terms=terms[:MAX_WORDS],
        match=" & ".join(parts),
        is_plain=not (excluded or any(required)),
        grams=grams,
    )
