"""Callers that read through outages."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import grpc

from palaver.v1.memory_service_pb2 import StreamMessagesRequest, StreamMessagesResponse
from tests.support.client import Client
from tests.support.concurrency import unless_refused


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

    # Chunks of more messages than writers add meanwhile: a stream ends only when it has them all.
    def read_on() -> bool:
        cursor = chunks[-1].next_cursor if chunks else 0
        request = StreamMessagesRequest(session_id=session_id, chunk_size=20, cursor=cursor)
        for chunk in client.memory.StreamMessages(request):
            chunks.append(chunk)  # noqa: PERF402 - what came before the end counts too
        return True

    while not unless_refused(grpc.StatusCode.UNAVAILABLE, read_on):
        pass
    sequences = [message.sequence for chunk in chunks for message in chunk.messages]
    assert sequences == list(range(1, len(sequences) + 1))
