-- A faster way to the words of most texts beyond ASCII: of English with typographic quotes or emoji,
-- say, and of other languages where no capital letter is beyond ASCII.

-- The characters that folding leaves as they are, or replaces as separators: ASCII, small letters
-- without an equivalent form, punctuation, arrows and emoji. For a regular expression.
CREATE FUNCTION search_plain() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '\u0001-\u007F'
    '\u00A0-\u00A7\u00A9\u00AB-\u00AE\u00B0\u00B1\u00B6\u00B7\u00BB\u00BF\u00DF-\u00F6'
    '\u00F8-\u00FF\u0101\u0103\u0105\u0107\u0109\u010B\u010D\u010F\u0111\u0113\u0115\u0117\u0119'
    '\u011B\u011D\u011F\u0121\u0123\u0125\u0127\u0129\u012B\u012D\u012F\u0131\u0135\u0137\u0138'
    '\u013A\u013C\u013E\u0142\u0144\u0146\u0148\u014B\u014D\u014F\u0151\u0153\u0155\u0157\u0159'
    '\u015B\u015D\u015F\u0161\u0163\u0165\u0167\u0169\u016B\u016D\u016F\u0171\u0173\u0175\u0177'
    '\u017A\u017C\u017E\u03AC-\u03CE\u0430-\u045F\u200B-\u200D\u2010-\u2016\u2018-\u203D'
    '\u203F-\u205E\u20AC\u2190-\u21FF\u2600-\u27BF\uFE0F\U0001F300-\U0001FAFF';

-- The words of a content or role. PostgreSQL inlines this function, whose first two cases call
-- built-in functions only.
CREATE OR REPLACE FUNCTION search_words(content text, language regconfig) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN octet_length(content) = length(content)
    THEN to_tsvector(language, search_normalized(content))
    WHEN content !~ ('[^' || search_plain() || ']')
    THEN to_tsvector(language, regexp_replace(
        lower(left(content, 65536) COLLATE "C"), '[^ 0-9a-z' || search_letters() || ']', ' ', 'g'
    ))
    ELSE search_normalized_words(search_normalized(content), search_unspaced(), language) END;
