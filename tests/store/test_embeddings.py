"""Vector search: scopes, filters, and vectors that do not match their message."""

from datetime import UTC, datetime

import pytest

from palaver_server.auth.access import EVERYTHING, Access
from palaver_server.database.pool import Pool
from palaver_server.purge.purge_store import PurgeStore
from palaver_server.store.message_filter import MessageFilter, Scope
from palaver_server.store.messages import MessageKey
from palaver_server.store.sessions import SessionStore
from tests.conftest import Run
from tests.support.concurrency import Connection
from tests.support.vectors import Vectors


@pytest.fixture
def vectors(pool: Pool, run: Run) -> Vectors:
    return Vectors(pool, run)


def test_vector_search_with_access_scope_finds_only_messages_of_user(vectors: Vectors) -> None:
    vectors.add("s1", "hers", user_id="ada")
    vectors.add("s2", "his", user_id="bob")
    vectors.embed_all()

    ada = Access("ada")
    for scope in (Scope(), Scope(user_id="ada"), Scope(session_id="s1")):
        assert vectors.find("x", access=ada, scope=scope) == ["hers"]
    for scope in (Scope(user_id="bob"), Scope(session_id="s2")):
        assert vectors.find("x", access=ada, scope=scope) == []


SCOPES = [Scope(), Scope(session_id="s"), Scope(user_id="ada")]


@pytest.mark.parametrize("scope", SCOPES)
def test_vector_search_returns_nearest_first_with_similarity(
    vectors: Vectors, scope: Scope
) -> None:
    vectors.add("s", "red green", "red blue", "one two three", user_id="ada")
    vectors.embed_all()

    found = vectors.neighbours("red blue", scope=scope)

    assert list(found) == [MessageKey("s", 2), MessageKey("s", 1), MessageKey("s", 3)]
    assert found[MessageKey("s", 2)] == pytest.approx(1, abs=1e-2)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert vectors.find("red blue", scope=scope, limit=1) == ["red blue"]


def test_vector_similarities_are_of_live_unchanged_messages(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="red green", m2="deleted", m3="changed")
    vectors.embed_all()
    vectors.delete("s", "m2")
    vectors.update("s", "m3", "otherwise")
    keys = [MessageKey("s", sequence) for sequence in (1, 2, 3, 4)]

    found = vectors.similarities("red green", keys)

    assert found == {MessageKey("s", 1): pytest.approx(1, abs=1e-2)}


def test_vector_search_scope_finds_only_its_messages(vectors: Vectors) -> None:
    vectors.add("s1", "first", user_id="ada")
    vectors.add("s2", "second", user_id="ada")
    vectors.add("s3", "third", user_id="bob")
    vectors.add("s4", "fourth")
    vectors.embed_all()

    assert set(vectors.find("x")) == {"first", "second", "third", "fourth"}
    assert vectors.find("x", scope=Scope(session_id="s3")) == ["third"]
    assert set(vectors.find("x", scope=Scope(user_id="ada"))) == {"first", "second"}
    assert vectors.find("x", scope=Scope(user_id="eve")) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_vector_search_filter_narrows_results(
    vectors: Vectors, database: Connection, scope: Scope
) -> None:
    vectors.add("s", "first", "second", "third", user_id="ada")
    database.execute(
        """
        UPDATE messages SET role = CASE sequence WHEN 1 THEN 'user' ELSE 'assistant' END,
            created_at = timestamptz '2026-01-01Z' + sequence * interval '1 day',
            metadata = jsonb_build_object('n', sequence)
        """
    )
    vectors.embed_all()
    third = datetime(2026, 1, 3, tzinfo=UTC)
    cases: list[tuple[MessageFilter, set[str]]] = [
        (MessageFilter(roles=["user", "tool"]), {"first"}),
        (MessageFilter(created_after=third), {"second", "third"}),
        (MessageFilter(created_before=third), {"first"}),
        (MessageFilter(metadata="$.n == 2"), {"second"}),
        (MessageFilter(roles=["assistant"], created_before=third), set()),
    ]

    for narrowed, expected in cases:
        assert set(vectors.find("x", scope=scope, filter=narrowed)) == expected


@pytest.mark.parametrize("scope", SCOPES)
def test_vector_search_never_finds_deleted_messages(
    vectors: Vectors, run: Run, scope: Scope
) -> None:
    vectors.add("s", user_id="ada", m1="kept", m2="deleted")
    vectors.embed_all()

    vectors.delete("s", "m2")
    assert vectors.find("deleted", scope=scope) == ["kept"]

    run(SessionStore(vectors.pool).delete_session(EVERYTHING, "s"))
    assert vectors.find("kept", scope=scope) == []
    assert vectors.count("embeddings") == 2

    vectors.add("s", "new")
    vectors.embed_all()
    assert vectors.find("kept", scope=scope) == ["new"]


@pytest.mark.parametrize("scope", SCOPES)
def test_vector_search_does_not_find_replaced_content(vectors: Vectors, scope: Scope) -> None:
    vectors.add("s", user_id="ada", m1="old words", m2="same")
    vectors.embed_all()

    vectors.update("s", "m1", "new")
    assert vectors.find("old words", scope=scope) == ["same"]
    vectors.add("s", m2="upserted")
    assert vectors.find("old words", scope=scope) == []

    assert vectors.embed_all() == 2
    assert set(vectors.find("new", scope=scope)) == {"new", "upserted"}


def test_vector_search_does_not_find_message_of_changed_role(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="words")
    vectors.embed_all()

    run(
        vectors.messages.update_message(
            EVERYTHING, "s", "m1", lambda row: row._replace(role="tool")
        )
    )

    assert vectors.find("words") == []
    assert vectors.embed_all() == 1
    assert vectors.find("words") == ["words"]


def test_vector_search_ignores_vector_of_earlier_content(
    vectors: Vectors, database: Connection
) -> None:
    """A server without an embedder queues nothing."""
    vectors.add("s", m1="old")
    vectors.embed_all()

    database.execute("UPDATE messages SET content = 'new'")

    assert vectors.find("old") == []


def test_vector_search_keeps_vector_after_metadata_change(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="words")
    vectors.embed_all()

    run(
        vectors.messages.update_message(
            EVERYTHING, "s", "m1", lambda row: row._replace(metadata='{"a": 1}')
        )
    )

    assert vectors.find("words") == ["words"]
    assert vectors.embed_all() == 0, "and it is not embedded again"
    assert vectors.count("embedding_queue") == 0


def test_vector_search_ignores_vectors_of_other_models(
    vectors: Vectors, pool: Pool, run: Run
) -> None:
    others = Vectors(pool, run, model="another")
    assert others.space.model_id != vectors.space.model_id
    vectors.add("s", "words", user_id="ada")
    vectors.embed_all()

    for scope in SCOPES:
        assert vectors.find("words", scope=scope) == ["words"]
        assert others.find("words", scope=scope) == []


def test_purge_removes_vectors(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="kept", m2="deleted")
    vectors.embed_all()
    vectors.delete("s", "m2")

    async def purge() -> None:
        store = PurgeStore(vectors.pool)
        async with store.turn() as turn:
            assert turn
            assert await turn.purge_messages(datetime.max.replace(tzinfo=UTC), limit=10) == 1

    run(purge())

    assert vectors.count("embeddings") == 1
    assert vectors.find("deleted") == ["kept"]


def test_vector_search_finds_restored_id_by_new_content_only(vectors: Vectors) -> None:
    vectors.add("s", m1="old words")
    vectors.embed_all()
    vectors.delete("s", "m1")

    vectors.add("s", m1="new")  # the same row with another sequence
    assert vectors.find("old words") == []

    vectors.embed_all()
    assert vectors.find("new") == ["new"]
    assert vectors.count("embeddings") == 1
