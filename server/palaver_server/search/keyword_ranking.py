"""The ranking of keyword search: the SQL that scores messages.

The score of a message is between 0 and 1: the weighted average, over the terms of the query, of
the message's share of each term.

1.  The share of a term is ts_rank, which grows with the number of occurrences, reduced in messages
    that are longer than the average of the matching ones (as BM25 does).
2.  The weight of a term is its inverse document frequency (as in BM25): the rarer it is among the
    messages in the scope, the more it counts.
3.  The 1,000 best messages by these are ranked again together with their context: a term in one
    of the two messages before or after counts too, half as much for each step of distance.
4.  A term that names a role, such as "user", counts in full in the messages of that role, and only
    there. Such a message is found for it if another term is in its context.
"""

from palaver_server.auth.access import Access
from palaver_server.store.message_filter import AccessibleScope, MessageFilter

# BM25's inverse document frequency.
_WEIGHT = """
    ln(1 + (corpus.messages - frequencies.messages + 0.5) / (frequencies.messages + 0.5))
"""

# CTEs, of which the last one, `ranked`, has the keys and the scores of the best messages. Each is
# MATERIALIZED, so that the planner runs the steps in this order. The parameters are the fields of a
# `KeywordQuery`, `limit`, and those of the scope and the filter.
RANKED = """
    WITH terms AS MATERIALIZED (
        SELECT term, number
        FROM unnest(%(terms)s::text[]::tsquery[]) WITH ORDINALITY AS terms (term, number)
    ), matching AS MATERIALIZED (
        SELECT m.session_id, m.sequence, m.role, m.words
        FROM {source} WHERE {condition}
    ), corpus AS MATERIALIZED (
        SELECT avg(length(words))::float8 AS average_length,
            greatest(({size}), count(*))::float8 AS messages
        FROM matching
    ), shares AS MATERIALIZED (
        SELECT session_id, sequence, number,
            rank / (rank + (1 - rank) * (0.5 + 0.5 * length / average_length)) AS share
        FROM (
            SELECT session_id, sequence, number, length(words) AS length,
                least(ts_rank('{{1, 1, 1, 1}}', words, term), 1) AS rank
            FROM matching JOIN terms ON words @@ term
        ) ranked CROSS JOIN corpus
    ), frequencies AS MATERIALIZED (
        SELECT number, count(share)::float8 AS messages
        FROM terms LEFT JOIN shares USING (number)
        GROUP BY number
    ), best AS MATERIALIZED (
        SELECT session_id, sequence
        FROM shares JOIN frequencies USING (number) CROSS JOIN corpus
        GROUP BY session_id, sequence
        ORDER BY sum(share * {weight}) DESC, session_id, sequence DESC
        LIMIT 1000
    ), spread AS MATERIALIZED (
        SELECT session_id, sequence + distance AS sequence, number,
            share * 0.5 ^ abs(distance) AS share, distance = 0 AS is_match
        FROM best JOIN shares USING (session_id, sequence)
            CROSS JOIN generate_series(-2, 2) AS distance
    ), context AS MATERIALIZED (
        SELECT session_id, sequence, role, passes, first_term, last_term
        FROM (
            SELECT session_id, sequence, min(number) AS first_term, max(number) AS last_term
            FROM spread
            GROUP BY session_id, sequence
        ) keys CROSS JOIN LATERAL (
            SELECT m.role, {passes} AS passes FROM messages m
            WHERE m.session_id = keys.session_id AND m.sequence = keys.sequence
                AND m.deleted_at IS NULL
            OFFSET 0 -- a barrier: look up each message by its key
        ) message
    ), role_terms AS MATERIALIZED (
        SELECT role, number
        FROM (SELECT DISTINCT role FROM context) roles
            JOIN terms ON search_words(role, %(language)s::regconfig) @@ term
    ), weights AS MATERIALIZED (
        SELECT number, {weight} AS weight
        FROM (
            SELECT number, greatest(messages, (
                SELECT count(*) FROM matching JOIN role_terms USING (role)
                WHERE role_terms.number = frequencies.number
            )) AS messages
            FROM frequencies
        ) frequencies CROSS JOIN corpus
    ), ranked AS MATERIALIZED (
        SELECT session_id, sequence,
            sum(weight * share) / (SELECT sum(weight) FROM weights) AS score
        FROM (
            SELECT session_id, sequence, number, max(share) AS share, bool_or(is_match) AS is_match
            FROM (
                SELECT session_id, sequence, number, share, is_match FROM spread
                UNION ALL
                SELECT session_id, sequence, number, 1, passes AND %(is_plain)s
                    AND (first_term <> number OR last_term <> number)
                FROM context JOIN role_terms USING (role)
            ) all_shares
            GROUP BY session_id, sequence, number
        ) best_shares JOIN weights USING (number)
        GROUP BY session_id, sequence
        HAVING bool_or(is_match)
        ORDER BY score DESC, session_id, sequence DESC
        LIMIT %(limit)s
    )
"""

_MATCHES = "m.words @@ %(match)s::tsquery"

# In the scope of a session or a user, reading all its messages is best. The keyword index spans
# all scopes: IS TRUE keeps the planner from using it.
_MATCHES_WITHOUT_INDEX = f"({_MATCHES}) IS TRUE"


def ranking_parts(access: Access, scope: AccessibleScope, filter: MessageFilter) -> dict[str, str]:
    """Return the parts that fill in the placeholders of RANKED."""
    matches = _MATCHES if scope.may_be_large else _MATCHES_WITHOUT_INDEX
    return {
        "source": scope.sql.source,
        "condition": filter.sql(access, scope.sql.condition, matches),
        "passes": filter.sql(access, "m.deleted_at IS NULL"),
        "size": scope.sql.size,
        "weight": _WEIGHT,
    }
