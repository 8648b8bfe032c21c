"""The embedding backlog: queue, batches, concurrent changes, and backfill."""

import asyncio
from typing import Any

import pytest

from palaver_server.auth.access import EVERYTHING
from palaver_server.database.pool import Pool
from palaver_server.embedding import models
from palaver_server.embedding.backlog import EmbeddingBatch
from palaver_server.embedding.models import prepare_model
from palaver_server.errors import VectorsUnusable
from palaver_server.store.memory import MemoryStore, NewMessage
from tests.conftest import Run
from tests.support.client import wait_until
from tests.support.concurrency import Connection
from tests.support.vectors import Vectors, embed, of_user


@pytest.fixture
def vectors(pool: Pool, run: Run) -> Vectors:
    return Vectors(pool, run)


def texts(batch: EmbeddingBatch) -> list[str]:
    return sorted(message.text for message in batch.messages)


async def finish(batch: EmbeddingBatch) -> int:
    return await batch.finish([embed(message.text) for message in batch.messages])


def test_backlog_holds_written_messages(vectors: Vectors, run: Run) -> None:
    vectors.add("s", "one", "two", m1="three")
    vectors.add("s", m1="three", m2="four")

    async def take() -> list[str]:
        async with vectors.backlog.batch(10) as batch:
            return texts(batch)

    assert run(take()) == [of_user(text) for text in ("four", "one", "three", "two")]
    assert vectors.count("embedding_queue") == 4, "an unfinished batch stays queued"
    assert vectors.embed_all() == 4
    assert vectors.count("embedding_queue") == 0


def test_backlog_holds_messages_of_batched_appends(vectors: Vectors, run: Run) -> None:
    session_ids = [f"s{number}" for number in range(8)]
    for session_id in session_ids:
        vectors.add(session_id, "first")

    async def add_together() -> None:
        second = [NewMessage(None, "user", "second", 0, "{}", None)]
        adds = (
            vectors.memory.add_memory(EVERYTHING, session_id, second, user_id=None)
            for session_id in session_ids
        )
        await asyncio.gather(*adds)

    run(add_together())

    assert vectors.count("embedding_queue") == 2 * len(session_ids)


def test_backlog_is_empty_without_embedder(vectors: Vectors, run: Run) -> None:
    messages = [NewMessage(None, "user", "text", 0, "{}", None)]
    run(MemoryStore(vectors.pool).add_memory(EVERYTHING, "s", messages, user_id=None))

    assert vectors.count("embedding_queue") == 0


def test_backlog_is_shared_by_servers_without_waiting(vectors: Vectors, run: Run) -> None:
    vectors.add("s", "one", "two", "three")

    async def take_both() -> list[list[str]]:
        async with vectors.backlog.batch(2) as first, vectors.backlog.batch(2) as second:
            taken = [texts(first), texts(second)]
            assert sum(await asyncio.gather(finish(first), finish(second))) == 3
            return taken

    first, second = run(take_both())
    assert sorted(first + second) == [of_user(text) for text in ("one", "three", "two")]
    assert vectors.count("embeddings") == 3


def test_backlog_of_failed_server_is_taken_by_another(vectors: Vectors, run: Run) -> None:
    vectors.add("s", "text")

    async def fail() -> None:
        async with vectors.backlog.batch(10):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(fail())

    assert vectors.embed_all() == 1


def while_it_is_embedded(vectors: Vectors, run: Run, *changes: Any) -> int:
    """Take a batch, make changes, finish it, and return how many entries it settled."""

    async def embed_meanwhile() -> int:
        async with vectors.backlog.batch(10) as batch:
            for change in changes:
                await asyncio.to_thread(change)
            return await finish(batch)

    return run(embed_meanwhile())


def test_backlog_message_changed_during_embedding_gets_new_vector(
    vectors: Vectors, run: Run
) -> None:
    vectors.add("s", m1="old words", m2="other")

    while_it_is_embedded(vectors, run, lambda: vectors.update("s", "m1", "new"))

    assert vectors.find("old words") == ["other"]
    assert vectors.count("embeddings") == 1
    assert vectors.embed_all() == 1
    assert set(vectors.find("new")) == {"new", "other"}


def test_backlog_keeps_newer_vector_of_another_server(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="old words")

    def change_and_embed() -> None:
        vectors.update("s", "m1", "new")
        assert vectors.embed_all() == 1

    while_it_is_embedded(vectors, run, change_and_embed)

    assert vectors.find("new") == ["new"]


def test_backlog_message_deleted_during_embedding_gets_no_vector(
    vectors: Vectors, run: Run
) -> None:
    vectors.add("s", m1="deleted", m2="other")

    while_it_is_embedded(vectors, run, lambda: vectors.delete("s", "m1"))

    assert vectors.count("embeddings") == 1
    vectors.embed_all()
    assert vectors.count("embedding_queue") == 0


def test_backlog_message_purged_during_embedding_is_ignored(
    vectors: Vectors, run: Run, database: Connection
) -> None:
    vectors.add("s", m1="purged", m2="other")

    while_it_is_embedded(
        vectors, run, lambda: database.execute("DELETE FROM messages WHERE message_id = 'm1'")
    )

    assert vectors.find("purged") == ["other"]


def test_backlog_skips_messages_locked_by_writers(
    vectors: Vectors, run: Run, database: Connection
) -> None:
    vectors.add("s", m1="held", m2="other")

    with database.transaction():
        database.execute("UPDATE messages SET content = 'new' WHERE message_id = 'm1'")
        assert while_it_is_embedded(vectors, run) == 1
        assert vectors.find("other") == ["other"]

    assert vectors.embed_all() == 1
    assert set(vectors.find("new")) == {"new", "other"}


def test_backlog_batch_does_not_block_writes_to_session(vectors: Vectors, run: Run) -> None:
    vectors.add("s", m1="one", m2="two")

    while_it_is_embedded(
        vectors,
        run,
        lambda: vectors.add("s", "three", m1="one changed"),
        lambda: vectors.delete("s", "m2"),
    )

    vectors.embed_all()
    assert set(vectors.find("one")) == {"one changed", "three"}


def test_backlog_message_without_text_is_settled(vectors: Vectors) -> None:
    vectors.add("s", "", " \n\t", m1="deleted")
    vectors.delete("s", "m1")

    assert vectors.embed_all() == 0
    assert vectors.count("embedding_queue") == 0


def test_backlog_long_content_is_cut(vectors: Vectors, run: Run) -> None:
    vectors.add("s", "word " * 1000)

    async def take() -> list[str]:
        async with vectors.backlog.batch(10) as batch:
            return texts(batch)

    assert run(take()) == [of_user("word " * 20)[:100]]


def test_backlog_message_without_possible_vector_is_settled(vectors: Vectors, run: Run) -> None:
    vectors.add("s", "refused")

    async def refuse() -> int:
        async with vectors.backlog.batch(10) as batch:
            return await batch.finish([None])

    assert run(refuse()) == 1
    assert vectors.count("embedding_queue") == 0


def backfill_all(vectors: Vectors, run: Run) -> int:
    """Run the backfill to its end, two messages a step; return how many steps it took."""

    async def backfill() -> int:
        steps = 0
        while await vectors.backlog.backfill(2):
            steps += 1
        return steps

    return run(backfill())


def test_backfill_queues_every_live_message_without_its_vector(
    vectors: Vectors, run: Run, database: Connection
) -> None:
    vectors.add("s1", "one", "two", m1="deleted")
    vectors.add("s2", "three")
    vectors.embed_all()
    vectors.delete("s1", "m1")
    database.execute("DELETE FROM embeddings WHERE sequence = 2")
    database.execute("UPDATE messages SET content = 'changed' WHERE session_id = 's2'")

    assert backfill_all(vectors, run) == 3
    assert vectors.embed_all() == 2
    assert set(vectors.find("x")) == {"one", "two", "changed"}
    assert backfill_all(vectors, run) == 0, "complete until it is started again"

    run(vectors.backlog.start_backfill())
    assert backfill_all(vectors, run) == 3
    assert vectors.embed_all() == 0


def test_backfill_started_while_running_continues(vectors: Vectors, run: Run) -> None:
    vectors.add("s", *(f"word{n}" for n in range(6)))
    assert run(vectors.backlog.backfill(4))

    assert run(vectors.backlog.start_backfill()) == 6

    progress = run(vectors.backlog.backfill_progress(None))
    assert (progress.scanned, progress.is_complete) == (4, False)
    assert backfill_all(vectors, run) == 2


def test_backfill_on_two_servers_runs_on_one_at_a_time(
    vectors: Vectors, run: Run, database: Connection
) -> None:
    vectors.add("s", "one")
    with database.transaction():
        database.execute("SELECT FROM embedding_models FOR UPDATE")
        assert run(vectors.backlog.backfill(2)) is False

    assert run(vectors.backlog.backfill(2)) is True


def test_delete_other_models_deletes_their_vectors(
    vectors: Vectors, pool: Pool, run: Run, database: Connection
) -> None:
    vectors.add("s", "words")
    vectors.embed_all()
    others = Vectors(pool, run, model="another")
    backfill_all(others, run)
    others.embed_all()

    run(others.backlog.delete_other_models())

    assert others.find("words") == ["words"]
    assert vectors.find("words") == []
    assert others.count("embeddings") == others.count("embedding_models") == 1
    indexes = database.execute(
        "SELECT indexname FROM pg_indexes WHERE indexname LIKE 'embeddings_nearest%'"
    ).fetchall()
    assert indexes == [(f"embeddings_nearest_{others.space.model_id}",)]


def test_embedding_model_is_created_once_by_simultaneous_starts(pool: Pool, run: Run) -> None:
    async def prepare_all() -> set[int]:
        spaces = await asyncio.gather(*(prepare_model(pool, "m", 3) for _ in range(8)))
        return {space.model_id for space in spaces}

    assert len(run(prepare_all())) == 1


@pytest.mark.parametrize(
    "locked",
    [f"SELECT pg_advisory_xact_lock({models._KEY})", "LOCK TABLE embeddings IN EXCLUSIVE MODE"],
    ids=["another server", "a transaction"],
)
def test_embedding_model_waits_for_locks_of_others_within_a_limit(
    pool: Pool, run: Run, database: Connection, monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    run(prepare_model(pool, "m", 3))
    monkeypatch.setattr(models, "_LOCK_TIMEOUT_SECONDS", 0.1)

    with database.transaction():
        database.execute(locked.encode())
        with pytest.raises(VectorsUnusable, match="has locked the table of vectors"):
            run(prepare_model(pool, "m", 4))

    assert run(prepare_model(pool, "m", 4)).dimensions == 4


def test_embedding_model_that_another_server_is_creating_is_waited_for_and_logged(
    pool: Pool, run: Run, database: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async def prepare() -> int:
        with database.transaction():
            database.execute(f"SELECT pg_advisory_xact_lock({models._KEY})".encode())
            preparing = asyncio.create_task(prepare_model(pool, "m", 3))
            await asyncio.to_thread(wait_until, lambda: "waiting up to 30 s" in caplog.text)
        return (await preparing).dimensions

    assert run(prepare()) == 3


def test_embedding_model_with_other_dimensions_is_another(pool: Pool, run: Run) -> None:
    assert run(prepare_model(pool, "m", 3)) != run(prepare_model(pool, "m", 4))


def test_pgvector_too_old_is_refused_by_version(pool: Pool, run: Run, database: Connection) -> None:
    run(prepare_model(pool, "m", 3))
    database.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")

    with pytest.raises(VectorsUnusable, match=r"0\.7\.4.*ALTER EXTENSION vector UPDATE"):
        run(prepare_model(pool, "m", 3))
