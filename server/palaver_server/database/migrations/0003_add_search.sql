-- Keyword search: the words of each message, as a tsvector of PostgreSQL's full text search.
--
-- They are stems in the language of the connection's default_text_search_config, which
-- database/pool.py sets. A statement that writes a content writes its words too.

-- The characters that separate words: in ASCII all but letters and digits, otherwise punctuation,
-- symbols, private use and emoji. PostgreSQL's parser alone would read "red/blue" as a file and
-- "done.Next" as a host, and its letters outside of ASCII depend on the database's locale.
CREATE FUNCTION search_separators() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '[\u0001-\u001F!-/:-@[-`{-\u00A9\u00AB-\u00B4\u00B6-\u00B9\u00BB-\u00BF\u00D7\u00F7'
    '\u2000-\u20CF\u2190-\u2BFF\u2E00-\u2E7F\u3000-\u3004\u3008-\u3020\u3030\u303D-\u303F\u30FB'
    '\uE000-\uF8FF\uFE00-\uFE6F\uFF00-\uFF0F\uFF1A-\uFF20\uFF3B-\uFF40\uFF5B-\uFF65\uFFE0-\uFFFF'
    '\U0001F000-\U0001FBFF]';

-- The characters of scripts without spaces between words, or with compound words:
-- Thai, Lao, Burmese, Khmer, Korean, Japanese and Chinese. PostgreSQL has no dictionary for them.
CREATE FUNCTION search_unspaced() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '[\u0E00-\u0EFF\u1000-\u109F\u1100-\u11FF\u1780-\u17FF\u3005-\u3007\u3031-\u303C'
    '\u3040-\u30FA\u30FC-\u318F\u31A0-\u31BF\u31F0-\u31FF\u3400-\u4DBF\u4E00-\u9FFF'
    '\uA960-\uA97F\uAC00-\uD7FF\uF900-\uFAFF\uFF66-\uFFDC\U00020000-\U0003FFFF]';

-- The text with each separator replaced by a space.
CREATE FUNCTION search_spaced(content text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN regexp_replace(content, search_separators(), ' ', 'g');

-- The same with equivalent characters in one form (NFKC): wide letters, ligatures, combining
-- accents. Only the part that fits a tsvector, whose limit is 1 MiB, in any case.
CREATE FUNCTION search_normalized(content text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN search_spaced(
    CASE octet_length(content) WHEN length(content) THEN left(content, 65536)
    ELSE left(normalize(left(content, 65536), NFKC), 65536) END
);

-- The words of unspaced scripts in a normalized text, with their positions: each character with
-- the one after it (bigrams), and the last character of a run alone.
CREATE FUNCTION search_grams(content text) RETURNS TABLE (gram text, place bigint)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT character || CASE WHEN next ~ search_unspaced() THEN next ELSE '' END, ordinality
    FROM (
        SELECT *, lead(character, 1, '') OVER (ORDER BY ordinality) AS next
        FROM unnest(string_to_array(content, NULL)) WITH ORDINALITY AS characters (character)
    ) characters
    WHERE character ~ search_unspaced();
END;

-- The words of a content or role. 16383 is the last position that a tsvector has.
CREATE FUNCTION search_words(content text) RETURNS tsvector LANGUAGE plpgsql STABLE PARALLEL SAFE
AS $$
BEGIN
    content := search_normalized(content);
    IF octet_length(content) = length(content) OR content !~ search_unspaced() THEN
        RETURN to_tsvector(content);
    END IF;
    RETURN to_tsvector(regexp_replace(content, search_unspaced(), ' ', 'g')) || (
        SELECT string_agg(gram || ':' || least(place, 16383), ' ')::tsvector
        FROM search_grams(content)
    );
END $$;

-- The words of a query, each as a tsquery, in order. A single character matches every word that
-- begins with it; the last character of a run is already part of the bigram before it.
CREATE FUNCTION search_terms(content text) RETURNS TABLE (term text) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT quote_literal(lexeme) || CASE WHEN is_alone THEN ':*' ELSE '' END
    FROM (
        SELECT lexeme, place, length(lexeme) = 1 AND lexeme ~ search_unspaced() AS is_alone,
            bool_or(length(lexeme) = 2 AND lexeme ~ search_unspaced()) OVER (
                ORDER BY place RANGE BETWEEN 1 PRECEDING AND 1 PRECEDING
            ) IS TRUE AS follows
        FROM unnest(search_words(content)) AS words, unnest(words.positions) AS place
    ) words
    WHERE NOT (is_alone AND follows)
    GROUP BY 1
    ORDER BY min(place);
END;

-- A query for consecutive words; each run of an unspaced script is a phrase of its own.
CREATE FUNCTION search_phrase(content text) RETURNS tsquery LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT phraseto_tsquery(
            regexp_replace(search_normalized(content), search_unspaced(), ' ', 'g')
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

ALTER TABLE messages ADD COLUMN words tsvector NOT NULL DEFAULT '';

-- The language of the words of all messages, except those written since a server was configured
-- with another one. One row.
CREATE TABLE search_index (language text NOT NULL);
INSERT INTO search_index VALUES ('pg_catalog.english');

SET LOCAL default_text_search_config = 'pg_catalog.english';
UPDATE messages SET words = search_words(content) WHERE deleted_at IS NULL;

-- SearchMemory over all messages, in the modes KEYWORD and HYBRID. With fastupdate, the default,
-- new words go to the index's pending list, so that a write does not update an entry per word.
CREATE INDEX messages_words ON messages USING gin (words) WHERE deleted_at IS NULL;

-- SearchMemory over all messages, without a text.
CREATE INDEX messages_created_at ON messages (created_at) WHERE deleted_at IS NULL;
