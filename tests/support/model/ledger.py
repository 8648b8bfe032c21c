"""The ledger of callers that race for the same sessions and users.

Any caller may delete a message that another caller is adding, so the order of two calls that
overlapped is unknown. The ledger keeps when each call began and ended, and derives from
these times which messages must be there, and which must not. How many sessions and messages
there are is exact in any order: each creation that was acknowledged is there, or is one of
the deletions that were acknowledged.
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import grpc

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddedMessage, DeleteMessagesRequest, StreamMessagesRequest
from palaver.v1.session_pb2 import Session
from tests.support.client import Client
from tests.support.concurrency import unless_refused
from tests.support.model import state
from tests.support.model.contract import as_told, nanoseconds
from tests.support.model.expected import BrokenPromise, ExpectedSession, unique_name
from tests.support.model.presence import Presence
from tests.support.model.reading import Reading

_NOT_FOUND, _ALREADY_EXISTS = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS


@dataclass
class _Life:
    """A message from its creation to its deletion; an upsert leaves it the same message.

    Attributes:
        acknowledged_at: The end of the first call that was told of the message.
        seen_after: The beginning of the last call that was told of the message.
    """

    message: state.Message
    acknowledged_at: float = inf
    seen_after: float = 0


@dataclass
class _Deletes:
    """The acknowledged deletes of a session or a user."""

    last_began_at: float = 0
    last_ended_at: float = 0

    def record(self, began_at: float) -> None:
        """Record a delete that ends now."""
        self.last_began_at = max(self.last_began_at, began_at)
        self.last_ended_at = time.monotonic()


class Ledger:
    """Makes calls, in any number of threads, and records their answers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lives: dict[str, dict[str, _Life]] = defaultdict(dict)
        self._deleted: dict[str, set[str]] = defaultdict(set)
        self._deletes: dict[tuple[str, str], _Deletes] = defaultdict(_Deletes)
        self._moved: set[str] = set()
        self._sessions: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._sessions_deleted_with_users = 0
        self._messages_deleted_with_users = 0

    def add_memory(
        self, client: Client, session_id: str, messages: Iterable[Message], **fields: Any
    ) -> None:
        began_at = time.monotonic()
        response = client.add_memory(session_id, messages, **fields)
        ended_at = time.monotonic()
        with self._lock:
            self._sessions[session_id] += response.session_created + response.session_undeleted
            lives = self._lives[session_id]
            for added in map(_as_added, response.messages):
                self._messages[session_id] += unique_name(added) not in lives
                life = lives.setdefault(unique_name(added), _Life(added))
                life.acknowledged_at = min(life.acknowledged_at, ended_at)
                life.seen_after = max(life.seen_after, began_at)

    def add_session(self, client: Client, session_id: str, **fields: Any) -> None:
        session = unless_refused(_ALREADY_EXISTS, lambda: client.add_session(session_id, **fields))
        with self._lock:
            self._sessions[session_id] += session is not None

    def move_session(self, client: Client, session_id: str, user_id: str) -> None:
        """Give a session to another user, or to none."""
        with self._lock:
            self._moved.add(session_id)
        unless_refused(_NOT_FOUND, lambda: client.update_session(session_id, user_id=user_id))

    def delete_messages(self, client: Client, request: DeleteMessagesRequest) -> None:
        response = unless_refused(_NOT_FOUND, lambda: client.memory.DeleteMessages(request))
        with self._lock:
            deleted = self._deleted[request.session_id]
            for message in map(as_told, response.messages if response else ()):
                if unique_name(message) in deleted:
                    raise BrokenPromise(f"{unique_name(message)} was deleted twice")
                deleted.add(unique_name(message))
                self._messages[request.session_id] -= 1

    def delete_session(self, client: Client, session_id: str) -> None:
        began_at = time.monotonic()
        response = unless_refused(_NOT_FOUND, lambda: client.delete_session(session_id))
        if response:
            with self._lock:
                self._deletes["session", session_id].record(began_at)
                self._sessions[session_id] -= 1
                self._messages[session_id] -= response.messages_deleted

    def delete_user(self, client: Client, user_id: str) -> None:
        began_at = time.monotonic()
        response = unless_refused(_NOT_FOUND, lambda: client.delete_user(user_id))
        if response:
            with self._lock:
                self._deletes["user", user_id].record(began_at)
                self._sessions_deleted_with_users += response.sessions_deleted
                self._messages_deleted_with_users += response.messages_deleted

    def read(self, client: Client, session_id: str) -> None:
        """Read a session's messages, and check them as far as is possible during writes."""
        with self._lock:
            gone = self._gone(session_id, self._deletes["session", session_id])
        _read(client, ExpectedSession(Presence(session_id, exists=None), gone=gone))

    def audit(self, client: Client, session_ids: Sequence[str]) -> dict[str, list[Message]]:
        """Check all sessions; return their messages. There must be no writers."""
        unaccounted_sessions, unaccounted_messages = Counter[str](), Counter[str]()
        messages = {}
        for session_id in session_ids:
            session = unless_refused(_NOT_FOUND, partial(client.get_session, session_id))
            found = _read(client, self._expected(session_id, session))
            if session and found and found[-1].sequence > session.last_sequence:
                raise BrokenPromise(f"{session_id}: {found[-1]} exceeds {session.last_sequence}")
            unaccounted_sessions[session_id] = self._sessions[session_id] - bool(session)
            unaccounted_messages[session_id] = self._messages[session_id] - len(found)
            messages[session_id] = found
        _compare(unaccounted_sessions, self._sessions_deleted_with_users, "sessions")
        _compare(unaccounted_messages, self._messages_deleted_with_users, "messages")
        return messages

    def _expected(self, session_id: str, session: Session | None) -> ExpectedSession:
        """Return the state of a session while there are no writers."""
        lives = self._lives[session_id]
        if unknown := self._deleted[session_id] - lives.keys():
            raise BrokenPromise(f"{session_id}: deleted messages were never added: {unknown}")
        if session is None:  # it may have been deleted with any user
            return ExpectedSession(Presence(session_id, exists=False), known=lives)
        own = self._deletes["session", session_id]
        gone = self._gone(session_id, own)
        if session_id not in self._moved:  # a moved message may be older than its user
            gone |= self._gone(session_id, self._deletes["user", session.user_id])
        # A deleted session may have had any of the users.
        users = [deletes for (kind, _), deletes in self._deletes.items() if kind == "user"]
        last_ended_at = max(deletes.last_ended_at for deletes in (own, *users))
        live = {
            name: life.message
            for name, life in lives.items()
            if name not in gone and life.seen_after >= last_ended_at
        }
        presence = Presence(session_id, exists=True)
        return ExpectedSession(presence, live=live, gone=gone, known=lives)

    def _gone(self, session_id: str, *deletes: _Deletes) -> set[str]:
        """Return the messages that were deleted, or acknowledged before one of these began."""
        last_began_at = max(one.last_began_at for one in deletes)
        return self._deleted[session_id] | {
            name
            for name, life in self._lives[session_id].items()
            if life.acknowledged_at < last_began_at
        }


def _read(client: Client, expected: ExpectedSession) -> list[Message]:
    """Read a session's messages, none if it does not exist, and check them."""
    reading = Reading(expected, "StreamMessages")
    messages: list[Message] = []

    def read() -> bool:
        request = StreamMessagesRequest(session_id=expected.session_id, chunk_size=3)
        for chunk in client.memory.StreamMessages(request):
            messages.extend(chunk.messages)
        return True

    if not unless_refused(_NOT_FOUND, read):
        reading.check_may_be_missing()
        if not messages:
            return []
    reading.check_listing(list(map(as_told, messages)))
    return messages


def _compare(unaccounted: Counter[str], deleted_with_users: int, kind: str) -> None:
    """Check that as many are unaccounted for as were deleted with their users."""
    if min(unaccounted.values()) < 0:
        raise BrokenPromise(f"more {kind} exist than were created and not deleted: {unaccounted}")
    if unaccounted.total() != deleted_with_users:
        raise BrokenPromise(f"{kind} are lost: {unaccounted}, {deleted_with_users} with users")


def _as_added(added: AddedMessage) -> state.Message:
    """Convert the answer for a message; another caller may have written its content."""
    created_at = nanoseconds(added.created_at)
    return state.Message(added.message_id, "", sequence=added.sequence, created_at=created_at)
