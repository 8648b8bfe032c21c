"""Embedding behind the writes: messages get their vectors, whatever happens to the embedder."""

import logging
import threading
from typing import Any

import psycopg
import pytest

from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.memory_service_pb2 import DeleteMessagesRequest, UpdateMessageRequest
from palaver_server.database.pool import Pool
from palaver_server.embedding import worker as embedding
from tests.conftest import Run, StartServer
from tests.support.client import Client, wait_until
from tests.support.concurrency import begin
from tests.support.endpoint import Endpoint
from tests.support.vectors import Vectors

Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits in a test for what a server does by itself in a while."""
    monkeypatch.setattr(embedding, "_POLL_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(embedding, "_MIN_RETRY_DELAY_SECONDS", 0.05)
    monkeypatch.setattr(embedding, "_MAX_RETRY_DELAY_SECONDS", 0.2)
    monkeypatch.setattr(embedding, "_REPORT_INTERVAL_SECONDS", 0.02)


def count(database: Connection, table: str) -> int:
    (number,) = database.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
    return int(number)


def wait_until_embedded(database: Connection, messages: int) -> None:
    """Waits until nothing waits, and so many messages have a vector."""
    wait_until(lambda: count(database, "embedding_queue") == 0)
    wait_until(lambda: count(database, "embeddings") == messages)


@pytest.fixture
def embedding_server(start_server: StartServer, endpoint: Endpoint, database: Connection) -> Client:
    """A server that has found nothing left from before."""
    server = start_server(**endpoint.settings)
    wait_until(lambda: count(database, "embedding_models WHERE walk_session_id IS NULL") == 1)
    return server


def test_what_is_added_and_changed_gets_its_vector(
    embedding_server: Client, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    added = embedding_server.add("s", "one", "two").messages
    wait_until_embedded(database, 2)
    assert sorted(endpoint.texts) == ["user: one", "user: two"]

    embedding_server.memory.UpdateMessage(
        UpdateMessageRequest(session_id="s", message_id=added[0].message_id, content="changed")
    )
    wait_until_embedded(database, 2)

    found = Vectors(pool, run).find("changed")
    assert found[0] == "changed"
    assert set(found) == {"changed", "two"}


def test_wordllama_embeds_too(start_server: StartServer, database: Connection) -> None:
    pytest.importorskip("wordllama", reason="there is none for this platform")
    palaver = start_server(embedder="auto")

    palaver.add("s", "one", "two", "")

    wait_until_embedded(database, 2)
    row = database.execute("SELECT name, dimensions FROM embedding_models").fetchone()
    assert row == ("wordllama l2_supercat 256", 256)


def test_an_endpoint_that_is_away_holds_up_no_write_and_is_found_again(
    embedding_server: Client,
    database: Connection,
    endpoint: Endpoint,
    caplog: pytest.LogCaptureFixture,
) -> None:
    endpoint.status = 503
    embedding_server.add("s", "one")
    wait_until(lambda: len(endpoint.requests) > 2)
    embedding_server.add("s", "two")

    assert count(database, "embeddings") == 0
    endpoint.status = 200

    wait_until_embedded(database, 2)
    assert "HTTP 503" in caplog.text


def test_an_endpoint_that_does_not_answer_holds_up_no_write(
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


def test_messages_that_the_endpoint_refuses_hold_up_no_others_and_are_not_sent_again(
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


def test_several_servers_share_the_work(
    start_server: StartServer, database: Connection, endpoint: Endpoint
) -> None:
    servers = [start_server(**endpoint.settings) for _ in range(3)]
    endpoint.hold()
    for number in range(10):
        servers[0].add("s", *(f"{number} {n}" for n in range(20)))

    for _ in servers:  # each of them has a batch of its own at the endpoint
        endpoint.wait_until_asked()
    endpoint.release()

    wait_until_embedded(database, 200)
    assert len(endpoint.texts) == len(set(endpoint.texts)) == 200


def test_what_was_written_without_an_embedder_is_embedded_when_there_is_one(
    start_server: StartServer, database: Connection, endpoint: Endpoint
) -> None:
    start_server().add("s", "one", "two")
    assert count(database, "embedding_queue") == 0

    start_server(**endpoint.settings)

    wait_until_embedded(database, 2)


def test_after_a_change_of_model_all_is_embedded_anew_and_the_old_vectors_go(
    start_server: StartServer, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    old = start_server(**endpoint.settings)
    old.add("s", "one", "two")
    wait_until_embedded(database, 2)

    endpoint.hold()
    new = start_server(**{**endpoint.settings, "embedder_model": "new"})
    reindexing = begin(lambda: list(new.admin.Reindex(ReindexRequest())))
    endpoint.wait_until_asked()
    assert Vectors(pool, run).find("one") != [], "the old one finds what it found"
    assert Vectors(pool, run, model="new").find("one") == []
    endpoint.release()

    *_, last = reindexing.result(20)
    assert (last.vectors.done, last.vectors.estimated) == (2, 2)
    assert set(Vectors(pool, run, model="new").find("one")) == {"one", "two"}
    assert count(database, "embeddings") == 2
    assert {request["model"] for request in endpoint.requests} == {"test", "new"}


def test_a_reindex_goes_on_without_its_caller_and_the_next_one_joins_it(
    embedding_server: Client, database: Connection, endpoint: Endpoint
) -> None:
    embedding_server.add("s", *(f"text {n}" for n in range(100)))
    wait_until_embedded(database, 100)
    database.execute("DELETE FROM embeddings")

    endpoint.hold()
    call = embedding_server.admin.Reindex(ReindexRequest())
    endpoint.wait_until_asked()
    call.cancel()
    endpoint.release()
    wait_until_embedded(database, 100)

    *_, last = embedding_server.admin.Reindex(ReindexRequest())
    assert (last.vectors.done, last.vectors.estimated) == (100, 100)


def test_two_reindexes_at_once_both_end(embedding_server: Client, database: Connection) -> None:
    embedding_server.add("s", *(f"text {n}" for n in range(50)))
    wait_until_embedded(database, 50)

    calls = [begin(lambda: list(embedding_server.admin.Reindex(ReindexRequest()))) for _ in "ab"]

    for call in calls:
        assert call.result(20)[-1].vectors.done >= 50


def test_without_an_embedder_there_are_no_vectors_to_make(palaver: Client) -> None:
    palaver.add("s", "one", "two")

    *_, last = palaver.admin.Reindex(ReindexRequest())

    assert last.words.done == 2
    assert not last.HasField("vectors")


def test_nothing_is_lost_or_found_wrongly_while_all_write_at_once(
    start_server: StartServer, database: Connection, endpoint: Endpoint, pool: Pool, run: Run
) -> None:
    """Writers change the same messages over and over, and two servers embed them."""
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
    assert set(Vectors(pool, run).find("x")) == live, "each is found by what it says now"
