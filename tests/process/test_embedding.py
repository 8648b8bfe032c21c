"""Embedding by a server process, and the commands `migrate` and `reindex`."""

from pathlib import Path

import psycopg
import pytest

from tests.support.client import wait_until
from tests.support.concurrency import Connection
from tests.support.endpoint import Endpoint
from tests.support.palaver_process import RunPalaver, Serve
from tests.support.processes import embedded_url


def wait_until_session_embedded(database: Connection, session_id: str, messages: int) -> None:
    query = "SELECT count(*) FROM embeddings WHERE session_id = %s"
    wait_until(lambda: database.execute(query, [session_id]).fetchone() == (messages,))


def test_embedding_is_on_by_default(serve: Serve, data_dir: Path, session_id: str) -> None:
    pytest.importorskip("wordllama", reason="there is none for this platform")
    _, client = serve("--data-dir", str(data_dir), PALAVER_EMBEDDER="")

    client.add(session_id, "one", "two")

    with psycopg.connect(embedded_url(data_dir), autocommit=True) as database:
        wait_until_session_embedded(database, session_id, 2)


def test_embedding_silent_endpoint_does_not_delay_stop(
    serve: Serve, database_url: str, endpoint: Endpoint
) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)
    endpoint.hold()
    client.add("s", "text")
    endpoint.wait_until_asked()

    assert palaver.stop() == 0
    assert "Traceback" not in palaver.output


def test_migrate_creates_vector_table_and_reindex_shows_progress(
    run_palaver: RunPalaver,
    serve: Serve,
    database_url: str,
    database: Connection,
    endpoint: Endpoint,
) -> None:
    migrated = run_palaver("migrate", PALAVER_DATABASE_URL=database_url, **endpoint.variables)
    assert migrated.status == 0, migrated.output
    assert database.execute("SELECT count(*) FROM embeddings").fetchone() == (0,)

    _, client = serve(PALAVER_DATABASE_URL=database_url, **endpoint.variables)
    client.add("s", "one", "two")
    ended = run_palaver("reindex", "--address", client.address)

    assert ended.status == 0, ended.output
    assert "keywords 2/2, vectors 2/2\n" in ended.printed
    assert ended.printed.endswith("reindexed keywords of 2 messages and vectors of 2 messages\n")


def test_reindex_without_embedder_rebuilds_keywords(
    run_palaver: RunPalaver, serve: Serve, database_url: str
) -> None:
    _, client = serve(PALAVER_DATABASE_URL=database_url)
    client.add("s", "one", "two")

    ended = run_palaver("reindex", "--address", client.address)

    assert ended.status == 0, ended.output
    assert ended.printed.endswith("reindexed keywords of 2 messages\n")


def test_embedding_logs_neither_key_nor_texts(
    serve: Serve, database_url: str, database: Connection, endpoint: Endpoint
) -> None:
    endpoint.refused = "private"
    palaver, client = serve(
        "--log-level=DEBUG",
        PALAVER_DATABASE_URL=database_url,
        PALAVER_EMBEDDER_KEY="Sesame", **endpoint.variables,
    )  # fmt: skip

    client.add("s", "private matter", "other")

    wait_until_session_embedded(database, "s", 1)
    assert set(endpoint.keys) == {"Bearer Sesame"}
    palaver.prints("without a vector")
    assert "Sesame" not in palaver.output
    assert "private" not in palaver.output
