"""AdminService.Reindex: the vectors and keyword index of all messages are rebuilt."""

import pytest

from palaver.v1.admin_service_pb2 import ReindexRequest
from tests.support.client import Client
from tests.support.concurrency import (
    MAX_WAIT_SECONDS,
    Connection,
    begin,
    count_blocked,
    wait_until_blocked,
)
from tests.support.endpoint import Endpoint
from tests.support.rows import wait_until_embedded

pytestmark = pytest.mark.usefixtures("short_pauses")


# --- Contract ----------------------------------------------------------------------------------


def test_reindex_without_embedder_makes_no_vectors(palaver: Client) -> None:
    palaver.add("s", "one", "two")

    *_, last = palaver.admin.Reindex(ReindexRequest())

    assert last.words.done == 2
    assert not last.HasField("vectors")


# --- Concurrency -------------------------------------------------------------------------------


@pytest.mark.vectors
def test_reindex_continues_without_caller_and_next_call_joins(
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


@pytest.mark.vectors
def test_reindex_simultaneous_calls_both_end(
    embedding_server: Client, database: Connection
) -> None:
    embedding_server.add("s", *(f"text {n}" for n in range(50)))
    wait_until_embedded(database, 50)

    calls = [begin(lambda: list(embedding_server.admin.Reindex(ReindexRequest()))) for _ in "ab"]

    for call in calls:
        assert call.result(20)[-1].vectors.done >= 50


def test_reindex_second_call_joins_the_first(
    palaver: Client, rival: Connection, database: Connection
) -> None:
    palaver.add("s", "one", "two")
    rival.execute("LOCK TABLE messages IN ACCESS EXCLUSIVE MODE")
    calls = [palaver.admin.Reindex(ReindexRequest(), timeout=MAX_WAIT_SECONDS) for _ in "ab"]
    wait_until_blocked(database)
    palaver.get_session("s")  # after the server has started both

    assert count_blocked(database) == 1

    rival.rollback()
    assert [list(call)[-1].words.done for call in calls] == [2, 2]
