"""The books of what a service acknowledged, kept by callers at the same time, and their audit."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable

import grpc

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddedMessage, DeleteMessagesRequest, StreamMessagesRequest
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from tests.support.client import Client
from tests.support.concurrency import unless_refused

# A message that was created once: its id, its sequence, and when. An upsert keeps all
# three; an id that comes again after a delete or a purge differs in the last.
Birth = tuple[str, int, int]

NOT_FOUND = grpc.StatusCode.NOT_FOUND


class Ledger:
    """Makes calls, any number of threads at a time, and books their answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._born_by: dict[str, dict[Birth, float]] = defaultdict(dict)
        self._removed: dict[str, list[Birth]] = defaultdict(list)
        self._deleted_with_session: Counter[str] = Counter()
        self._deletes_began: dict[str, list[float]] = defaultdict(list)
        self._session_births: Counter[str] = Counter()

    def add_memory(self, client: Client, session_id: str, messages: Iterable[Message]) -> None:
        response = client.add_memory(session_id, messages)
        acknowledged_at = time.monotonic()
        with self._lock:
            self._session_births[session_id] += response.session_created
            self._session_births[session_id] += response.session_undeleted
            for added in response.messages:
                self._born_by[session_id].setdefault(_birth(added), acknowledged_at)

    def add_session(self, client: Client, session_id: str) -> None:
        request = AddSessionRequest(session_id=session_id)
        session = unless_refused(
            grpc.StatusCode.ALREADY_EXISTS, lambda: client.sessions.AddSession(request)
        )
        with self._lock:
            self._session_births[session_id] += session is not None

    def delete_messages(self, client: Client, request: DeleteMessagesRequest) -> None:
        response = unless_refused(NOT_FOUND, lambda: client.memory.DeleteMessages(request))
        with self._lock:
            self._removed[request.session_id].extend(
                map(_birth, response.messages if response else ())
            )

    def delete_session(self, client: Client, session_id: str) -> None:
        began_at = time.monotonic()
        request = DeleteSessionRequest(session_id=session_id)
        response = unless_refused(NOT_FOUND, lambda: client.sessions.DeleteSession(request))
        if response:
            with self._lock:
                self._deletes_began[session_id].append(began_at)
                self._deleted_with_session[session_id] += response.messages_deleted

    def audit(self, client: Client, session_id: str) -> list[Message]:
        """Compares what a session has with the books; gives its messages.

        Nobody may write meanwhile.
        """
        request = GetSessionRequest(session_id=session_id)
        session = unless_refused(NOT_FOUND, lambda: client.sessions.GetSession(request))
        births, deaths = self._session_births[session_id], len(self._deletes_began[session_id])
        assert births - deaths == (1 if session else 0), f"{births} times made, {deaths} deleted"

        messages = read_all(client, session_id)
        alive, born, removed = (
            set(map(_birth, messages)),
            self._born_by[session_id],
            self._removed[session_id],
        )
        assert len(set(removed)) == len(removed), "a message was deleted twice"
        assert set(removed) <= born.keys(), "a message was deleted that nobody added"
        assert alive <= born.keys(), "a message is there that nobody added"
        assert not alive & set(removed), "a deleted message is back"
        lost = len(born) - len(removed) - self._deleted_with_session[session_id] - len(alive)
        assert lost == 0, f"{lost} messages are lost"
        last_delete_began = max(self._deletes_began[session_id], default=0)
        assert all(born[birth] >= last_delete_began for birth in alive), (
            "a message outlived its session"
        )
        assert not session or session.last_sequence >= max(
            (m.sequence for m in messages), default=0
        )
        return messages


def read_all(client: Client, session_id: str) -> list[Message]:
    """Reads a session's messages, none if it is not there; they must be in order."""
    request = StreamMessagesRequest(session_id=session_id, chunk_size=3)
    messages: list[Message] = []

    def read() -> None:
        for chunk in client.memory.StreamMessages(request):
            messages.extend(chunk.messages)

    unless_refused(NOT_FOUND, read)
    sequences = [message.sequence for message in messages]
    assert sequences == sorted(set(sequences)), f"out of order, or twice: {sequences}"
    return messages


def _birth(message: Message | AddedMessage) -> Birth:
    return message.message_id, message.sequence, message.created_at.ToNanoseconds()
