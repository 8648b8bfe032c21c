"""Embedding in the background: all messages get vectors, also after failures of the embedder."""

import logging
import threading

import pytest

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest, UpdateMessageRequest
from palaver_server.database.pool import Pool
from tests.conftest import Run, StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import Connection, begin
from tests.support.endpoint import Endpoint
from tests.support.rows import count_rows, wait_until_embedded
from tests.support.vectors import Vectors

pytestmark = [pytest.mark.vectors, pytest.mark.usefixtures("short_pauses")]


def test_embedding_covers_added_and_updated_messages(
    embedding_server: Client, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    added = embedding_server.add("s", "one", "two").messages
    wait_until_embedded(database, 2)
    assert sorted(endpoint.texts) == ["user: one", "user: two"]

    embedding_server.update_message("s", added[0].message_id, content="changed")
    wait_until_embedded(database, 2)

    found = Vectors(pool, run).find("changed")
    assert found[0] == "changed"
    assert set(found) == {"changed", "two"}


@pytest.mark.slow
def test_embedding_works_with_wordllama(start_server: StartServer, database: Connection) -> None:
    pytest.importorskip("wordllama", reason="there is none for this platform")
    palaver = start_server(embedder="auto")

    palaver.add("s", "one", "two", "")

    wait_until_embedded(database, 2)
    row = database.execute("SELECT name, dimensions FROM embedding_models").fetchone()
    assert row == ("wordllama l2_supercat 256", 256)


def test_embedding_unreachable_endpoint_blocks_no_write_and_recovers(
    embedding_server: Client,
    database: Connection,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.status = 503
    embedding_server.add("s", "one")
    wait_until(lambda: len(endpoint.requests) > 2)
    embedding_server.add("s", "two")

    assert count_rows(database, "embeddings") == 0
    endpoint.status = 200

    wait_until_embedded(database, 2)
    assert "HTTP 503" in caplog.text


def test_embedding_silent_endpoint_blocks_no_write(
    embedding_server: Client, database: Connection, endpoint: Endpoint
) -> None:
    endpoint.hold()
    embedding_server.add("s", "one")
    endpoint.wait_until_asked()

    added = embedding_server.add("s", "two").messages[0]
    request = DeleteMessagesRequest(session_id="s", message_ids=[added.message_id])
    embedding_server.memory.DeleteMessages(request)
    endpoint.release()

    wait_until_embedded(database, 1)


def test_embedding_refused_messages_block_no_others_and_are_not_resent(
    embedding_server: Client,
    database: Connection,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    endpoint.refused = "refused"
    embedding_server.add("s", *(f"{'refused' if n % 4 == 0 else 'good'} {n}" for n in range(20)))

    wait_until_embedded(database, 15)
    sent = len(endpoint.requests)
    embedding_server.add("s", "another")
    wait_until_embedded(database, 16)

    assert len(endpoint.requests) == sent + 1
    assert caplog.text.count("stays without a vector") == 5
    assert "refused 0" not in caplog.text


def test_embedding_is_shared_by_servers(
    start_server: StartServer, database: Connection, endpoint: Endpoint
) -> None:
    servers = [start_server(**endpoint.settings) for _ in range(3)]
    endpoint.hold()
    for number in range(10):
        servers[0].add("s", *(f"{number} {n}" for n in range(20)))

    for _ in servers:  # each server has sent a batch of its own
        endpoint.wait_until_asked()
    endpoint.release()

    wait_until_embedded(database, 200)
    assert len(endpoint.texts) == len(set(endpoint.texts)) == 200


def test_embedding_backfills_messages_written_without_embedder(
    start_server: StartServer, database: Connection, endpoint: Endpoint
) -> None:
    start_server().add("s", "one", "two")
    assert count_rows(database, "embedding_queue") == 0

    start_server(**endpoint.settings)

    wait_until_embedded(database, 2)


def test_embedding_model_change_reembeds_and_drops_old_vectors(
    start_server: StartServer, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    old = start_server(**endpoint.settings)
    old.add("s", "one", "two")
    wait_until_embedded(database, 2)

    endpoint.hold()
    new = start_server(**{**endpoint.settings, "embedder_model": "new"})
    reindexing = begin(lambda: list(new.admin.Reindex(ReindexRequest())))
    endpoint.wait_until_asked()
    assert Vectors(pool, run).find("one") != [], "the old server finds the same messages"
    assert Vectors(pool, run, model="new").find("one") == []
    endpoint.release()

    *_, last = reindexing.result(20)
    assert (last.vectors.done, last.vectors.estimated) == (2, 2)
    assert set(Vectors(pool, run, model="new").find("one")) == {"one", "two"}
    assert count_rows(database, "embeddings") == 2
    assert {request["model"] for request in endpoint.requests} == {"test", "new"}


def test_embedding_during_simultaneous_writes_is_complete_and_correct(
    start_server: StartServer, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    """Writers change the same messages repeatedly, and two servers embed them."""
    servers = [start_server(**endpoint.settings) for _ in range(2)]
    contents = [f"text {n}" for n in range(4)]
    added = servers[0].add("s", *contents).messages

    def change(number: int) -> None:
        for turn in range(25):
            message = added[(number + turn) % len(added)]
            request = UpdateMessageRequest(
                session_id="s", message_id=message.message_id, content=f"{number} of {turn}"
            )
            servers[number % 2].memory.UpdateMessage(request)

    threads = [threading.Thread(target=change, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    wait_until_embedded(database, 4)
    live = {content for (content,) in database.execute("SELECT content FROM messages")}
    assert set(Vectors(pool, run).find("x")) == live, "each message is found by its current content"
