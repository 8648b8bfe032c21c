"""Embedding in a server of its own: what is on by default, and what a kill leaves."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.process.conftest import RunPalaver, Serve
from tests.support.client import wait_until
from tests.support.endpoint import Endpoint
from tests.support.processes import embedded_url

Connection = psycopg.Connection[tuple[Any, ...]]


def wait_until_embedded(database: Connection, session_id: str, messages: int) -> None:
    query = "SELECT count(*) FROM embeddings WHERE session_id = %s"
    wait_until(lambda: database.execute(query, [session_id]).fetchone() == (messages,))


def variables(endpoint: Endpoint) -> dict[str, str]:
    return {f"PALAVER_{name.upper()}": str(value) for name, value in endpoint.settings.items()}


def test_a_server_that_is_told_nothing_embeds(
    serve: Serve, data_dir: Path, session_id: str
) -> None:
    pytest.importorskip("wordllama", reason="there is none for this platform")
    _, client = serve("--data-dir", str(data_dir), PALAVER_EMBEDDER="")

    client.add(session_id, "one", "two")

    with psycopg.connect(embedded_url(data_dir), autocommit=True) as database:
        wait_until_embedded(database, session_id, 2)


def test_what_a_killed_server_was_embedding_another_embeds(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    palaver, client = serve("--database-url", database_url, **variables(endpoint))
    endpoint.hold()
    client.add("s", *(f"text {n}" for n in range(100)))
    endpoint.wait_until_asked()

    palaver.kill()
    endpoint.release()
    assert database.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)
    serve("--database-url", database_url, **variables(endpoint))

    wait_until_embedded(database, "s", 100)
    assert database.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)


def test_backfill_after_a_kill_continues(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    palaver, client = serve("--database-url", database_url)
    for number in range(3):
        client.add("s", *(f"text {number} {n}" for n in range(400)))
    palaver.kill()
    endpoint.hold()
    palaver, _ = serve("--database-url", database_url, **variables(endpoint))
    endpoint.wait_until_asked()
    palaver.kill()
    query = "SELECT walk_count FROM embedding_models"
    assert database.execute(query).fetchone() == (500,), "it is in the middle"

    endpoint.release()
    serve("--database-url", database_url, **variables(endpoint))

    wait_until_embedded(database, "s", 1200)
    assert database.execute(query).fetchone() == (1200,)


def test_a_server_stops_at_once_while_its_endpoint_does_not_answer(
    serve: Serve, database_url: str, endpoint: Endpoint
) -> None:
    palaver, client = serve("--database-url", database_url, **variables(endpoint))
    endpoint.hold()
    client.add("s", "text")
    endpoint.wait_until_asked()

    assert palaver.stop() == 0
    assert "Traceback" not in palaver.output


def test_migrate_makes_the_table_of_vectors_and_reindex_shows_how_far_it_is(
    run_palaver: RunPalaver,
    serve: Serve,
    database_url: str,
    database: Connection,
    endpoint: Endpoint,
) -> None:
    migrated = run_palaver("migrate", "--database-url", database_url, **variables(endpoint))
    assert migrated.status == 0, migrated.output
    assert database.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)

    _, client = serve("--database-url", database_url, **variables(endpoint))
    client.add("s", "one", "two")
    ended = run_palaver("reindex", "--address", client.address)

    assert ended.status == 0, ended.output
    assert "keywords 2/2, vectors 2/2\n" in ended.printed
    assert ended.printed.endswith("reindexed keywords of 2 messages and vectors of 2 messages\n")


def test_reindex_of_a_server_without_an_embedder_makes_the_words(
    run_palaver: RunPalaver, serve: Serve, database_url: str
) -> None:
    _, client = serve("--database-url", database_url)
    client.add("s", "one", "two")

    ended = run_palaver("reindex", "--address", client.address)

    assert ended.status == 0, ended.output
    assert ended.printed.endswith("reindexed keywords of 2 messages\n")


def test_the_key_and_the_texts_are_not_in_the_log(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    endpoint.refused = "private"
    palaver, client = serve(
        "--database-url", database_url, "--log-level=DEBUG",
        PALAVER_EMBEDDER_KEY="Sesame", **variables(endpoint),
    )  # fmt: skip

    client.add("s", "private matter", "other")

    wait_until_embedded(database, "s", 1)
    assert set(endpoint.keys) == {"Bearer Sesame"}
    palaver.prints("without a vector")
    assert "Sesame" not in palaver.output
    assert "private" not in palaver.output
