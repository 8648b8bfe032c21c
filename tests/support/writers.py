"""Callers that add memory through outages, and the check of what must be stored."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, StreamMessagesRequest
from tests.support.client import Client
from tests.support.watching import eventually

_BATCH = 3

# Reconnect at once to a server that is restarted.
RECONNECTING_AT_ONCE = (
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 100),
)


class Writer(threading.Thread):
    """Add batches with ids to a session; retry each until it is acknowledged."""

    def __init__(
        self,
        address: str,
        session_id: str,
        name: str,
        *,
        service_config: str = "{}",
        timeout: float = 20,
    ) -> None:
        super().__init__(name=name)
        self.session_id = session_id
        self.acknowledged: dict[str, int] = {}
        self.failures: list[grpc.RpcError] = []
        self._address = address
        self._timeout = timeout
        self._options = (*RECONNECTING_AT_ONCE, ("grpc.service_config", service_config))
        self._stopped = threading.Event()
        self._given_up = threading.Event()

    def run(self) -> None:
        with grpc.insecure_channel(self._address, options=self._options) as channel:
            client = Client(channel, self._address)
            while not self._stopped.is_set():
                self._add(client, len(self.acknowledged))

    def stop(self) -> None:
        """Stop when the current batch is acknowledged."""
        self._stopped.set()
        self.join()

    def give_up(self) -> None:
        """Stop at once."""
        self._given_up.set()
        self.stop()

    def _add(self, client: Client, start: int) -> None:
        ids = [f"{self.name} {number}" for number in range(start, start + _BATCH)]
        messages = [Message(message_id=id_, role="user", content=f"by {id_}") for id_ in ids]
        request = AddMemoryRequest(session_id=self.session_id, messages=messages)
        while not self._given_up.wait(0.03):  # as a well-behaved client does
            try:
                response = client.memory.AddMemory(request, timeout=self._timeout)
            except grpc.RpcError as error:
                self.failures.append(error)
            else:
                self.acknowledged |= {
                    added.message_id: added.sequence for added in response.messages
                }
                return


@contextmanager
def writing(
    address: str, session_id: str, *, service_config: str = "{}", timeout: float = 20
) -> Iterator[Sequence[Writer]]:
    """Run four writers, two on each of two sessions named after `session_id`."""
    writers = [
        Writer(
            address,
            f"{session_id}-{n % 2}",
            f"w{n}",
            service_config=service_config,
            timeout=timeout,
        )
        for n in range(4)
    ]
    for writer in writers:
        writer.start()
    try:
        progress(writers)
        yield writers
        for writer in writers:
            writer.stop()
    finally:
        for writer in writers:
            writer.give_up()


def progress(writers: Sequence[Writer]) -> None:
    """Wait until five more batches of each writer are acknowledged."""
    goals = {writer: len(writer.acknowledged) + 5 * _BATCH for writer in writers}
    eventually(
        lambda: all(len(writer.acknowledged) >= goal for writer, goal in goals.items()),
        "every writer gets on",
        within=60,
    )


def check_history(client: Client, writers: Sequence[Writer]) -> None:
    """Check that every acknowledged message is stored once, under its sequence."""
    for session_id in {writer.session_id for writer in writers}:
        pages = client.memory.StreamMessages(StreamMessagesRequest(session_id=session_id))
        history = [message for page in pages for message in page.messages]
        assert [message.sequence for message in history] == list(range(1, len(history) + 1))
        assert all(message.content == f"by {message.message_id}" for message in history)

        here = [writer for writer in writers if writer.session_id == session_id]
        acknowledged = {id_: at for writer in here for id_, at in writer.acknowledged.items()}
        assert {message.message_id: message.sequence for message in history} == acknowledged
        assert max(Counter(message.message_id for message in history).values()) == 1
