"""The contract in plain Python: what the service must hold and answer, one call at a time.

The model does not know the server's clock nor the ids that it makes up. Where a field
comes from there it holds a `Later`, until an answer says what it is; from then on the
field must stay what it is, until the model says that it changes.
"""

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from tests.model_state import (
    AlreadyExists,
    Later,
    Message,
    Metadata,
    NotFound,
    Number,
    Session,
    Stale,
    known,
)


class Added(NamedTuple):
    """The answer of add_memory."""

    session_created: bool
    session_undeleted: bool
    messages: list[Message]


class Memory(NamedTuple):
    """The answer of get_memory."""

    messages: list[Message]
    metadata: Metadata
    has_more: bool


class Model:
    """The service. Every method is a call that breaks no rule for its fields."""

    def __init__(self, *, window: int) -> None:
        self._window = window
        self._sessions: dict[str, Session] = {}
        self._clock = 0
        self._last_id = 0

    def saw_time(self, time: int) -> None:
        """Notes a time that the server gave: what happens next happens then or later."""
        self._clock = max(self._clock, time)

    def saw_id(self, id: int) -> None:
        """Notes a listing position: later sessions have greater ones."""
        self._last_id = max(self._last_id, id)

    def now(self) -> Later:
        """The server's clock."""
        return Later(self._clock)

    def session(self, session_id: str) -> Session:
        """The live session of this id."""
        session = self._sessions.get(session_id)
        if session is None or session.is_deleted:
            raise NotFound("Session", session_id)
        return session

    def message(self, session_id: str, message_id: str) -> Message:
        """The live message of this id."""
        message = self.session(session_id).find(message_id)
        if message is None:
            raise NotFound("Message", message_id)
        return message

    # SessionService

    def add_session(self, session_id: str, user_id: str, metadata: Metadata) -> Session:
        old = self._sessions.get(session_id)
        if old and not old.is_deleted:
            raise AlreadyExists("Session", session_id)
        session = self._create(session_id, user_id, metadata)
        if old:
            session.last_sequence, session.deleted_ids = old.last_sequence, old.deleted_ids
        return session

    def update_session(
        self, session_id: str, patch: Metadata | None, *, replace: bool, user_id: str | None
    ) -> Session:
        session = self.session(session_id)
        if patch is not None:
            session.metadata = patch if replace else merge_patch(session.metadata, patch)
        if user_id is not None:
            session.user_id = user_id
        session.updated_at = self._now_or_still(session.updated_at)
        return session

    def delete_session(self, session_id: str) -> int:
        """Returns how many messages went with the session."""
        session = self.session(session_id)
        count = len(session.messages)
        session.delete(session.messages)
        session.is_deleted = True
        return count

    def sessions(
        self, *, newest_first: bool, cursor: int, matches: Callable[[Session], bool]
    ) -> list[Session]:
        """The rest of a listing after a cursor."""
        live = [s for s in self._sessions.values() if not s.is_deleted and matches(s)]
        return _beyond(cursor, live, lambda session: known(session.id), newest_first=newest_first)

    # MemoryService

    def add_memory(
        self, session_id: str, messages: Iterable[Message], *, user_id: str, expected: int | None
    ) -> Added:
        session = self._sessions.get(session_id)
        last_sequence = session.last_sequence if session else 0
        if expected not in (None, last_sequence):
            raise Stale(expected, last_sequence)
        added = Added(session is None, session is not None and session.is_deleted, [])
        if session is None:
            session = self._create(session_id, user_id, {})
        for message in messages:
            old = session.find(message.message_id) if message.message_id else None
            if old is None:
                added.messages.append(self._append(session, message))
            else:
                added.messages.append(self._upsert(session, old, message))
        session.is_deleted = False
        return added

    def _append(self, session: Session, message: Message) -> Message:
        session.last_sequence += 1
        session.deleted_ids.discard(message.message_id)
        message.sequence = session.last_sequence
        if isinstance(message.created_at, Later):  # not given by the caller
            message.created_at = self.now()
        message.updated_at = session.updated_at = self.now()
        session.messages.append(message)
        return message

    def _upsert(self, session: Session, old: Message, new: Message) -> Message:
        if not old.says_the_same_as(new):
            old.role, old.content = new.role, new.content
            old.metadata, old.token_count = new.metadata, new.token_count
            old.updated_at = session.updated_at = self.now()
        return old

    def get_memory(self, session_id: str, *, last_n: int, max_tokens: int) -> Memory:
        session = self.session(session_id)
        fitting: list[Message] = []
        tokens = Fraction(0)
        for message in reversed(session.messages):
            tokens += message.token_count or Fraction(len(message.content), 4)
            if len(fitting) == min(last_n or self._window, 1000) or 0 < max_tokens < tokens:
                break
            fitting.insert(0, message)
        return Memory(fitting, session.metadata, has_more=len(fitting) < len(session.messages))

    def messages(self, session_id: str, *, newest_first: bool, cursor: int) -> list[Message]:
        """The rest of a listing after a cursor."""
        live = self.session(session_id).messages
        return _beyond(cursor, live, lambda message: message.sequence, newest_first=newest_first)

    def update_message(self, session_id: str, message_id: str, **given: Any) -> Message:
        message, session = self.message(session_id, message_id), self.session(session_id)
        if "metadata" in given:
            given["metadata"] = merge_patch(message.metadata, given["metadata"])
        for name, value in given.items():
            setattr(message, name, value)
        message.updated_at = self._now_or_still(message.updated_at)
        session.updated_at = self._now_or_still(session.updated_at)
        return message

    def delete_messages(
        self, session_id: str, *, message_ids: Sequence[str], last_n: int
    ) -> list[Message]:
        session = self.session(session_id)
        if message_ids:
            gone = [message for message in session.messages if message.message_id in message_ids]
        else:
            gone = session.messages[-last_n:]
        session.delete(gone)
        if gone:
            session.updated_at = self.now()
        return gone

    # AdminService

    def purge(self) -> tuple[int, int]:
        """Removes all that is deleted; returns how many messages and sessions that are."""
        messages = 0
        for session in self._sessions.values():
            messages += len(session.deleted_ids)
            session.deleted_ids.clear()
        deleted = [session for session in self._sessions.values() if session.is_deleted]
        for session in deleted:
            del self._sessions[session.session_id]
        return messages, len(deleted)

    def _create(self, session_id: str, user_id: str, metadata: Metadata) -> Session:
        position, now = Later(self._last_id + 1), self.now()
        session = Session(session_id, user_id, metadata, position, now, now)
        self._sessions[session_id] = session
        return session

    def _now_or_still(self, time: Number) -> Later:
        return Later(self._clock, or_still=known(time))


def merge_patch(target: Any, patch: Any) -> Any:
    """The function of RFC 7396, section 2, word for word."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def _beyond(
    cursor: int, items: Sequence[Any], position: Callable[[Any], int], *, newest_first: bool
) -> list[Any]:
    ordered = sorted(items, key=position, reverse=newest_first)
    if not cursor:
        return ordered
    if newest_first:
        return [item for item in ordered if position(item) < cursor]
    return [item for item in ordered if position(item) > cursor]
