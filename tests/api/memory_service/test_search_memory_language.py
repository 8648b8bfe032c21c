"""MemoryService.SearchMemory: the search language, and reindexing after it changed."""

import psycopg
import pytest

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_service_pb2 import UpdateMessageRequest
from palaver_server.database.statement import Statement
from palaver_server.errors import DatabaseUnusable
from palaver_server.search import keyword_index, reindexing
from palaver_server.search.keyword_index import check_language
from tests.conftest import Run, StartServer
from tests.support.client import Client
from tests.support.concurrency import Connection
from tests.support.searching import found, say, search


def test_search_memory_words_match_by_configured_language(start_server: StartServer) -> None:
    german = start_server(search_language="german")
    german.add("s", "Die Häuser sind alt.", "she was running")

    assert found(german, "Haus") == ["Die Häuser sind alt."]
    assert found(german, "die") == []
    assert found(german, "run") == []


def test_search_memory_simple_matches_exact_words(start_server: StartServer) -> None:
    simple = start_server(search_language="simple")
    simple.add("s", "The houses")

    assert found(simple, "the") == ["The houses"]
    assert found(simple, "house") == []


def test_search_memory_unknown_language_is_refused_at_start(run: Run, database_url: str) -> None:
    for language in ("klingon", "no such", "a.b.c.d", "'; DROP TABLE messages; --", '"'):
        with pytest.raises(DatabaseUnusable, match=r"PALAVER_SEARCH_LANGUAGE to one of .*english"):
            run(check_language(database_url, language))
    run(check_language(database_url, "pg_catalog.english"))


def test_search_memory_language_does_not_depend_on_the_session(
    start_server: StartServer, database: Connection
) -> None:
    name = database.info.dbname
    database.execute(f"ALTER DATABASE {name} SET default_text_search_config = 'simple'".encode())
    german = start_server(search_language="german")
    german.add("s", "Die Häuser sind alt.")
    say(german, "s", ("user", "noch ein Baum"))
    german.memory.UpdateMessage(
        UpdateMessageRequest(session_id="s", message_id="noch ein Baum", content="viele Bäume")
    )

    assert found(german, "Haus") == ["Die Häuser sind alt."]
    assert found(german, "der Baum", session_id="s") == ["viele Bäume"]
    assert found(german, '"alte Häuser"') == []
    assert search(german, "Haus").results[0].snippet == "Die **Häuser** sind alt."


def test_search_memory_finds_words_of_servers_of_the_version_before(
    palaver: Client, database: Connection
) -> None:
    palaver.add("s", "to be replaced")
    database.execute("SET default_text_search_config = 'english'")
    database.execute(
        "UPDATE messages SET content = %(content)s, words = search_words(%(content)s)",
        {"content": "Houses by the sea, 海边的房子"},
    )

    assert len(found(palaver, "house")) == len(found(palaver, "海边")) == 1
    for text in ("Houses by the sea", "海边的房子"):
        for function in ("search_terms", "search_phrase"):
            old, new = (
                database.execute(f"SELECT {function}({arguments})".encode(), [text]).fetchall()
                for arguments in ("%s", "%s, 'english'")
            )
            assert old == new


def test_search_words_of_plain_characters_are_those_of_folded_text(database: Connection) -> None:
    different = database.execute(
        """
        WITH texts AS (
            SELECT code, concat('x', chr(code), 'Y ', chr(code), ' ', chr(code), '1 é') AS text
            FROM generate_series(1, 131071) AS code
            WHERE code NOT BETWEEN 55296 AND 57343
                AND chr(code) ~ ('[' || search_plain() || ']')
        )
        SELECT count(*) > 2000, array_agg(code) FILTER (WHERE search_words(text, 'simple')
            <> search_normalized_words(search_normalized(text), search_unspaced(), 'simple'))
        FROM texts
        """
    )
    assert different.fetchone() == (True, None)


def test_search_functions_do_not_depend_on_the_search_path(database: Connection) -> None:
    (schema,) = database.execute("SELECT current_schema()").fetchone() or ()
    database.execute("SET search_path = ''")
    for content in ("Houses", "ÄRGER im HÄUSERMEER ÜBER ŁÓDŹ", "नमस्ते", "東京タワー and Ä"):
        words = database.execute(
            f"SELECT {schema}.search_words(%(content)s, 'english'),"
            f" ARRAY(SELECT {schema}.search_terms(%(content)s, 'english')),"
            f" ARRAY(SELECT {schema}.search_unfolded_terms(%(content)s, 'english')),"
            f" {schema}.search_phrase(%(content)s, 'english')::text,"
            f" {schema}.search_unfolded_phrase(%(content)s, 'english')::text,"
            f" {schema}.search_highlightable(%(content)s)",
            {"content": content},
        ).fetchone()
        assert words
        assert all(words)


UPDATED = "SELECT updated_at FROM messages WHERE sequence <= 5 ORDER BY session_id, sequence"


def test_search_memory_indexed_language_that_is_gone_is_named_in_the_warning(
    palaver: Client, run: Run, database_url: str, database: Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    palaver.add("s", "word")
    for gone in ("public.gone", "a.b.c.d"):
        database.execute("UPDATE search_index SET language = %s", [gone])
        run(check_language(database_url, "english"))
        assert f"messages are indexed in {gone}" in caplog.text


def test_search_memory_language_is_not_blamed_for_other_errors(
    run: Run, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = Statement("search_index.get_language", "SELECT language FRUM search_index")
    monkeypatch.setattr(keyword_index, "_GET_LANGUAGE", wrong)
    with pytest.raises(DatabaseUnusable, match="syntax error") as raised:
        run(check_language(database_url, "english"))
    assert "PALAVER_SEARCH_LANGUAGE" not in str(raised.value)


def test_search_memory_language_change_warns_and_reindex_rebuilds(
    start_server: StartServer,
    database: Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reindexing, "_PAGE_SIZE", 2)
    english = start_server()
    english.add("s", *(f"Häuser {number}" for number in range(5)))
    english.add("deleted", "Häuser")
    times = database.execute(UPDATED).fetchall()

    german = start_server(search_language="german")
    assert "run palaver reindex" in caplog.text
    assert found(german, "Haus") == []
    german.add("s", "Häuser, neu")
    assert found(german, "Haus") == ["Häuser, neu"]

    *_, last = german.admin.Reindex(ReindexRequest())

    assert (last.words.done, last.words.estimated) == (7, 7)
    assert len(found(german, "Haus")) == 7
    assert database.execute(UPDATED).fetchall() == times
    caplog.clear()
    start_server(search_language="german")
    assert "reindex" not in caplog.text


def test_search_memory_finds_unfolded_words_until_reindex(
    start_server: StartServer, database: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    palaver = start_server()
    palaver.add("s", "नमस्ते, house", "नमस्ते, tree")
    # As the version before stored words.
    database.execute("UPDATE search_index SET has_unfolded = true")
    database.execute(
        "UPDATE messages SET words = search_normalized_words(search_unfolded(content),"
        " search_unspaced(), 'english') WHERE sequence = 1"
    )
    assert "run palaver reindex" not in caplog.text

    palaver = start_server()

    assert "run palaver reindex" in caplog.text
    assert len(found(palaver, "नमस्ते")) == len(found(palaver, '"नमस्ते"')) == 2
    assert found(palaver, "house tree -नमस्ते") == []

    *_, last = palaver.admin.Reindex(ReindexRequest())
    assert last.words.done == 2
    stored = database.execute("SELECT DISTINCT words @@ 'नमसते'::tsquery FROM messages")
    assert stored.fetchall() == [(True,)]
    assert len(found(palaver, "नमस्ते")) == len(found(palaver, '"नमस्ते"')) == 2
    caplog.clear()
    start_server()
    assert "reindex" not in caplog.text


def test_search_memory_reindex_does_not_wait_or_block(
    start_server: StartServer, database_url: str
) -> None:
    start_server().add("s", "Häuser", "Bäume")
    german = start_server(search_language="german")

    with psycopg.connect(database_url) as rival:
        rival.execute("SELECT FROM messages WHERE sequence = 1 FOR UPDATE")
        *_, last = german.admin.Reindex(ReindexRequest())
        assert last.words.done == 2
        assert found(german, "Baum") == ["Bäume"]
        assert found(german, "Haus") == []


def test_search_memory_snippet_of_a_content_without_spaces_is_highlighted(palaver: Client) -> None:
    palaver.add("s", "東京タワー")

    (result,) = search(palaver, "東京").results

    assert result.snippet == "**東京**タワー"
