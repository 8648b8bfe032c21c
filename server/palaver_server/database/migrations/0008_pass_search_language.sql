-- The functions of keyword search take the language as an argument: a setting of the session would
-- belong to another client behind a connection pooler in transaction mode. The forms without it,
-- which servers of the version before call, read default_text_search_config.

-- The words of unspaced scripts in a normalized text. 16383 is the last position that a tsvector has.
CREATE FUNCTION search_gram_words(content text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT string_agg(gram || ':' || least(place, 16383), ' ')::tsvector FROM search_grams(content);
END;

-- The words of a normalized text. The grams have a function of their own, because PostgreSQL plans
-- the subqueries of a function each time, even where no row needs them.
CREATE FUNCTION search_normalized_words(content text, language regconfig) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN content ~ search_unspaced()
    THEN to_tsvector(language, regexp_replace(content, search_unspaced(), ' ', 'g'))
        || search_gram_words(content)
    ELSE to_tsvector(language, content) END;

-- The words of a content or role. PostgreSQL inlines this function.
CREATE FUNCTION search_words(content text, language regconfig) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE octet_length(content) WHEN length(content)
    THEN to_tsvector(language, search_spaced(left(content, 65536)))
    ELSE search_normalized_words(search_normalized(content), language) END;

-- The words of a query, each as a tsquery, in order. A single character matches every word that
-- begins with it; the last character of a run is already part of the bigram before it.
CREATE FUNCTION search_terms(content text, language regconfig) RETURNS TABLE (term text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT quote_literal(lexeme) || CASE WHEN is_alone THEN ':*' ELSE '' END
    FROM (
        SELECT lexeme, place, length(lexeme) = 1 AND lexeme ~ search_unspaced() AS is_alone,
            bool_or(length(lexeme) = 2 AND lexeme ~ search_unspaced()) OVER (
                ORDER BY place RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING
            ) IS TRUE AS follows
        FROM unnest(search_words(content, language)) AS words, unnest(words.positions) AS place
    ) words
    WHERE NOT (is_alone AND follows)
    GROUP BY 1
    ORDER BY min(place);
END;

-- A query for consecutive words; each run of an unspaced script is a phrase of its own.
CREATE FUNCTION search_phrase(content text, language regconfig) RETURNS tsquery
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT phraseto_tsquery(
            language, regexp_replace(search_normalized(content), search_unspaced(), ' ', 'g')
        ) && coalesce(string_agg(phrase, ' & ')::tsquery, '')
    FROM (
        SELECT string_agg(
            gram || CASE WHEN length(gram) = 1 THEN ':*' ELSE '' END, ' <-> ' ORDER BY place
        ) AS phrase
        FROM (
            SELECT gram, place, place - row_number() OVER (ORDER BY place) AS run,
                lag(place) OVER (ORDER BY place) IS NOT DISTINCT FROM place - 1 AS follows
            FROM search_grams(search_normalized(content))
        ) grams
        WHERE NOT (length(gram) = 1 AND follows)
        GROUP BY run
    ) runs;
END;

CREATE OR REPLACE FUNCTION search_words(content text) RETURNS tsvector
LANGUAGE sql STABLE PARALLEL SAFE
RETURN search_words(content, get_current_ts_config());

CREATE OR REPLACE FUNCTION search_terms(content text) RETURNS TABLE (term text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT term FROM search_terms(content, get_current_ts_config());
END;

CREATE OR REPLACE FUNCTION search_phrase(content text) RETURNS tsquery LANGUAGE sql STABLE
RETURN search_phrase(content, get_current_ts_config());

-- Logical replication of updates needs a primary key.
ALTER TABLE search_index ADD COLUMN is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only);

-- With its schema, as a server that reindexed has always recorded it.
UPDATE search_index SET language = 'pg_catalog.' || language
WHERE language IN (
    SELECT cfgname FROM pg_ts_config WHERE cfgnamespace = 'pg_catalog'::regnamespace
);
