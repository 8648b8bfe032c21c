"""Two servers on one database, restarted in turn under load: retrying clients see no error."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import grpc
import pytest

from palaver.v1.memory_service_pb2 import StreamMessagesRequest, StreamMessagesResponse
from palaver.v1.session_service_pb2 import GetSessionRequest
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client
from tests.support.clusters import FAST
from tests.support.concurrency import unless_refused
from tests.support.contract import SERVICE_CONFIG
from tests.support.palaver_process import Serve
from tests.support.writers import check_history, progress, writing

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


@pytest.fixture
def database_url(data_dir: Path) -> Iterator[str]:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        yield postgres.url


@contextmanager
def repeating(work: Callable[[], object]) -> Iterator[None]:
    """Repeat something in a thread during the block, until it fails."""
    stopped = threading.Event()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not stopped.is_set():
                work()
        except BaseException as error:  # noqa: BLE001 - raised where the block ends
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    if failures:
        raise failures[0]


def read_all(client: Client, session_id: str) -> None:
    """Read a session, resuming each broken stream from its last cursor."""
    chunks: list[StreamMessagesResponse] = []

    def read_on() -> bool:
        cursor = chunks[-1].next_cursor if chunks else 0
        request = StreamMessagesRequest(session_id=session_id, chunk_size=2, cursor=cursor)
        for chunk in client.memory.StreamMessages(request):
            chunks.append(chunk)  # noqa: PERF402 - what came before the end counts too
        return True

    while not unless_refused(UNAVAILABLE, read_on):
        pass
    sequences = [message.sequence for chunk in chunks for message in chunk.messages]
    assert sequences == list(range(1, len(sequences) + 1))


def test_rolling_restart_fails_no_call_of_retrying_clients(
    serve: Serve, database_url: str, session_id: str
) -> None:
    servers = [serve(PALAVER_DATABASE_URL=database_url) for _ in range(2)]
    both = "ipv4:" + ",".join(client.address for _, client in servers)
    options = [("grpc.service_config", SERVICE_CONFIG)]
    request = GetSessionRequest(session_id=f"{session_id}-0")

    with (
        grpc.insecure_channel(both, options) as channel,
        writing(both, session_id, service_config=SERVICE_CONFIG) as writers,
    ):
        caller = Client(channel, both)
        with (
            repeating(lambda: caller.sessions.GetSession(request)),
            repeating(lambda: read_all(caller, request.session_id)),
        ):
            for palaver, client in servers:
                assert palaver.stop() == 0
                progress(writers)
                serve("--listen", client.address, PALAVER_DATABASE_URL=database_url)
                progress(writers)

    check_history(servers[0][1], writers)
    calls = [cast("grpc.Call", failure) for writer in writers for failure in writer.failures]
    assert {call.code() for call in calls} <= {UNAVAILABLE}
