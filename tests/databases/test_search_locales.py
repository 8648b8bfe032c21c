"""Keyword search is the same on every locale of a PostgreSQL server."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from palaver_server.database.migrate import migrate
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.postgres import DEBIAN, EMBEDDED, running_postgres

LOCALES: Mapping[str, Mapping[str, LiteralString]] = {
    "embedded": {
        "c": "LOCALE_PROVIDER libc LOCALE 'C'",
        "english": "LOCALE_PROVIDER libc LOCALE 'en_US.UTF-8'",
        "turkish": "LOCALE_PROVIDER libc LOCALE 'tr_TR.UTF-8'",
        "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'",
        "builtin_utf8": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C.UTF-8'",
        "builtin_full": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST' LOCALE 'C'",
    },
    "debian": {
        "c": "LOCALE_PROVIDER libc LOCALE 'C'",
        "english": "LOCALE_PROVIDER libc LOCALE 'en_US.UTF-8'",
        "turkish": "LOCALE_PROVIDER libc LOCALE 'tr_TR.UTF-8'",
        "icu_english": "LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'en_US.UTF-8'",
        "icu_turkish": "LOCALE_PROVIDER icu ICU_LOCALE 'tr-TR' LOCALE 'tr_TR.UTF-8'",
        "icu_lithuanian": "LOCALE_PROVIDER icu ICU_LOCALE 'lt' LOCALE 'C'",
    },
}

PROGRAMS = {"embedded": EMBEDDED, "debian": DEBIAN}

LANGUAGES = ["english", "german", "turkish", "russian", "hindi", "simple"]


@pytest.fixture(scope="module", params=LOCALES)
def locales(request: pytest.FixtureRequest, run: Run) -> Iterator[dict[str, Connection]]:
    """Connections to a migrated database of each locale, on one server."""
    with ExitStack() as stack:
        url = stack.enter_context(running_postgres(PROGRAMS[request.param], "--locale=C"))
        locales = {}
        for name, locale in LOCALES[request.param].items():
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(
                    f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {locale}".encode()
                )
            own = make_conninfo(url, dbname=name, options="-c client_min_messages=error")
            run(migrate(own))
            locales[name] = stack.enter_context(psycopg.connect(own, autocommit=True))
        yield locales


def answers(
    locales: Mapping[str, Connection], query: LiteralString, *parameters: Any
) -> dict[str, Any]:
    return {
        name: connection.execute(query, parameters).fetchall()
        for name, connection in locales.items()
    }


# What is stored of a content, what a query asks for, and what a snippet highlights.
SEARCHED = """
    SELECT search_words(content, language)::text,
        ARRAY(SELECT search_terms(content, language)),
        search_phrase(content, language)::text,
        ts_headline(
            language, search_highlightable(content), search_phrase(content, language),
            'HighlightAll = true'
        )
    FROM unnest(%s::text[]) AS content, unnest(%s::regconfig[]) AS language
"""

# Letters of several scripts, marks, digits, separators and what a locale may take for either.
TEXTS = st.text(
    st.one_of(
        st.sampled_from(
            "aIiİ\u0131ÄäßẞΣ\u03c3ςЖжǅ\u0301\u0307\u094d\u093fहدی،1٣٢ .-'\u00a0\u200c"
            "東ไ한ｱ\uff21Ⅷ\U0001d400"
        ),
        st.characters(codec="utf-8", exclude_characters="\0"),
    ),
    max_size=60,
)


@pytest.mark.timeout(300)
@settings(max_examples=100, derandomize=True, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8), language=st.sampled_from(LANGUAGES))
def test_random_texts_have_the_same_words_on_every_locale(
    locales: dict[str, Connection], texts: list[str], language: str
) -> None:
    found = answers(locales, SEARCHED, texts, [language])

    assert found == dict.fromkeys(locales, found["c"])


# In words and alone. Each text has 32 characters; the ideographs from U+3400 on are alike.
EVERY_CHARACTER = """
    SELECT min(code), search_words(string_agg(
        'x' || chr(code) || 'y ' || chr(code) || ' ' || chr(code) || '1', ' ' ORDER BY code
    ), 'simple')::text
    FROM generate_series(1, 131071) AS code
    WHERE code NOT BETWEEN 13312 AND 40959 AND code NOT BETWEEN 44032 AND 57343
    GROUP BY code / 32 ORDER BY 1
"""


@pytest.mark.timeout(300)
def test_every_character_is_part_of_the_same_words_on_every_locale(
    locales: dict[str, Connection],
) -> None:
    found = answers(locales, EVERY_CHARACTER)

    for name, rows in found.items():
        different = [code for (code, words), row in zip(rows, found["c"], strict=True)
                     if words != row[1]]  # fmt: skip
        assert not different, f"on {name}, from {different[0]:#x} on"


# The words of a text, as a tsvector without positions.
EXPECTED = {
    "HÄUSER Häuser häuser": "'häuser'",
    "IZMIR İzmir izmir": "'izmir'",
    "\u0131sparta Isparta": "'isparta' '\u0131sparta'",
    "ŁÓDŹ łódź ÅNGSTRÖM A\u030angstro\u0308m": "'ångström' 'łódź'",
    "ΟΔΟΣ ЖУК ԱՐԵՎ \u1e9e \u01c5": "'dž' 'ß' 'οδοσ' 'жук' 'արեվ'",
    "हिन्दी हिनदी": "'हिनदी'",
    "سلام، دنیا؟ ١٢٣": "'دنیا' 'سلام' '١٢٣'",
    "q\u0303x \U0001d400\u210c ﬁx": "'ah' 'fix' 'qx'",
}


def test_words_of_texts_beyond_ascii_are_folded(locales: dict[str, Connection]) -> None:
    query: LiteralString = """
        SELECT array_to_string(ARRAY(
            SELECT quote_literal(word) FROM unnest(tsvector_to_array(search_words(text, 'simple')))
                AS word
        ), ' ')
        FROM unnest(%s::text[]) AS text
    """
    found = answers(locales, query, list(EXPECTED))

    expected = [(words,) for words in EXPECTED.values()]
    assert found == dict.fromkeys(locales, expected)
