"""The contract in plain Python: predicts state and answers, one call at a time."""

import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from tests.support.model.state import (
    AlreadyExists,
    Invalid,
    Later,
    Message,
    Metadata,
    NotFound,
    Number,
    Session,
    User,
    known,
)
from tests.support.model.users import (
    Mode,
    UserModel,
    after_cursor,
    changed,
    check,
    differs,
)

# The first words of the names of Chinese, Japanese and Korean characters.
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC", "FULLWIDTH", "BOPOMOFO"}


class Expected(NamedTuple):
    """The state in which a session is expected; None: any."""

    revision: int | None = None
    last_sequence: int | None = None


ANY = Expected()


# The metadata of a request, and how it changes the current one.
Change: TypeAlias = tuple[Metadata, Mode]


class Added(NamedTuple):
    """The answer of add_memory."""

    session_created: bool
    session_undeleted: bool
    messages: list[Message]
    messages_deleted: int


class Memory(NamedTuple):
    """The answer of get_memory."""

    messages: list[Message]
    metadata: Metadata
    has_more: bool
    total: int


def _are_same(live: Sequence[Message], given: Sequence[Message]) -> bool:
    """Return whether live messages are those of a request, in the same order."""
    return len(live) == len(given) and all(
        new.message_id in {"", old.message_id}
        and old.equals(new)
        and (isinstance(new.created_at, Later) or new.created_at == old.created_at)
        for old, new in zip(live, given, strict=True)
    )


def tokens_of(message: Message) -> Fraction:
    """Return the tokens of a message, estimated from its characters if they were not counted."""
    if message.token_count:
        return Fraction(message.token_count)
    kinds = [unicodedata.name(character, "").split(" ")[0] for character in message.content]
    return sum(
        (Fraction(1) if kind in _EAST_ASIAN else Fraction(1, 4) for kind in kinds), Fraction()
    )


class Model(UserModel):
    """The service. Each method is a valid call; it raises Refused if the service must refuse."""

    def __init__(self, *, window: int) -> None:
        super().__init__()
        self._window = window
        self._sessions: dict[str, Session] = {}

    def session(self, session_id: str) -> Session:
        """Return the live session with this id."""
        session = self._sessions.get(session_id)
        if session is None or session.is_deleted:
            raise NotFound("Session", session_id)
        return session

    def message(self, session_id: str, message_id: str) -> Message:
        """Return the live message with this id."""
        message = self.session(session_id).find(message_id)
        if message is None:
            raise NotFound("Message", message_id)
        return message

    # SessionService

    def add_session(
        self,
        session_id: str,
        user_id: str,
        metadata: Metadata,
        *,
        created_at: int | None = None,
        user_must_exist: bool = False,
        ttl: int | None = None,
    ) -> Session:
        if user_id and user_must_exist:
            self.user(user_id)
        old = self._sessions.get(session_id)
        if old and not old.is_deleted:
            raise AlreadyExists("Session", session_id)
        session = self._create(session_id, user_id, metadata, ttl)
        if created_at is not None:
            session.created_at = created_at
        return session

    def check_session(self, session_id: str, expected: Expected) -> None:
        """Raise Stale if a session, 0 for one that does not exist, is not as expected."""
        session = self._sessions.get(session_id)
        is_live = session is not None and not session.is_deleted
        check("revision", expected.revision, session.revision if session and is_live else 0)
        check("last_sequence", expected.last_sequence, session.last_sequence if session else 0)

    def update_session(
        self,
        session_id: str,
        patch: Metadata | None,
        *,
        mode: Mode,
        user_id: str | None,
        revision: int | None,
        undelete: bool,
        allow_missing: bool,
        ttl: int | None = None,
    ) -> Session:
        old = self._sessions.get(session_id)
        is_live = old is not None and not old.is_deleted
        if not is_live and not (undelete or allow_missing):
            raise NotFound("Session", session_id)
        self.check_session(session_id, Expected(revision))
        if not is_live:
            if undelete and old and old.is_restorable:
                self._restore(old)
                old.updated_at = self.now()
            elif allow_missing:
                metadata = changed({}, patch or {}, mode)
                return self._create(session_id, user_id or "", metadata, ttl)
        session = self.session(session_id)
        before = vars(session).copy()
        if patch is not None:
            session.metadata = changed(session.metadata, patch, mode)
        if user_id is not None:
            session.user_id = user_id
            self.ensure_user(user_id)
        self._set_ttl(session, ttl)
        if differs(before, vars(session)):
            session.updated_at = self.now()
            session.revision += 1
        self._extend(session)
        return session

    @staticmethod
    def _set_ttl(session: Session, ttl: int | None) -> None:
        if ttl is not None:
            session.ttl = ttl or None

    def _extend(self, session: Session) -> None:
        """Set the expiry of a session after a write, also one that changed nothing."""
        session.expires_at = None if session.ttl is None else self.time_in(session.ttl)

    def expire(self, session_id: str) -> None:
        """Let a session expire now, if it is live."""
        session = self._sessions.get(session_id)
        if session is not None and not session.is_deleted:
            self.delete_session(session_id)

    def delete_session(self, session_id: str, expected: Expected = ANY) -> int:
        """Delete a session; return the number of its messages."""
        session = self.session(session_id)
        self.check_session(session_id, expected)
        count = len(session.messages)
        session.delete(session.messages)
        session.is_deleted = True
        session.revision += 1
        return count

    def sessions(
        self, *, newest_first: bool, cursor: int, matches: Callable[[Session], bool]
    ) -> list[Session]:
        """Return the rest of a listing after a cursor."""
        live = [s for s in self._sessions.values() if not s.is_deleted and matches(s)]
        return after_cursor(
            cursor, live, lambda session: known(session.id), newest_first=newest_first
        )

    # UserService, where sessions are deleted with a user

    def delete_user(self, user_id: str, revision: int | None) -> tuple[int, int]:
        """Delete a user; return the numbers of the user's sessions and messages."""
        self.delete_user_alone(user_id, revision)
        its_own = [s for s in self._sessions.values() if s.user_id == user_id]
        live = [session for session in its_own if not session.is_deleted]
        messages = sum(self.delete_session(session.session_id) for session in live)
        for session in its_own:
            session.is_restorable, session.user_id = False, ""
        return len(live), messages

    # MemoryService

    def add_memory(
        self,
        session_id: str,
        messages: Sequence[Message],
        *,
        user_id: str,
        expected: Expected = ANY,
        session_must_exist: bool = False,
        session_change: Change | None = None,
        user_change: Change | None = None,
        replace: bool = False,
        ttl: int | None = None,
    ) -> Added:
        session = self._sessions.get(session_id)
        if session_must_exist:
            self.session(session_id)
        self.check_session(session_id, expected)
        starts = session is None or not session.is_restorable
        owner = user_id if session is None or starts else session.user_id
        if user_change is not None and not owner:
            raise Invalid("user_metadata")
        added = Added(starts, session is not None and session.is_deleted and not starts, [], 0)
        if session is None or not session.is_restorable:
            session = self._create(session_id, user_id, {}, None)
        if session.is_deleted:
            self._restore(session)
            session.updated_at = self.now()
        before = [vars(message).copy() for message in session.messages]
        if replace and not _are_same(session.messages, messages):
            added = added._replace(messages_deleted=len(session.messages))
            session.delete(session.messages)
            session.updated_at = self.now()
        elif replace:
            messages, added = (), added._replace(messages=list(session.messages))
        for message in messages:
            old = session.find(message.message_id) if message.message_id else None
            if old is None:
                added.messages.append(self._append(session, message))
            else:
                added.messages.append(self._upsert(session, old, message))
        after = [vars(message) for message in session.messages]
        if starts or added.session_undeleted or before != after:
            self._change_session(session, session_change, ttl)
            self._change_user(owner, user_change)
        self._extend(session)
        return added

    def _change_session(self, session: Session, change: Change | None, ttl: int | None) -> None:
        before = vars(session).copy()
        if change is not None:
            session.metadata = changed(session.metadata, *change)
        self._set_ttl(session, ttl)
        if differs(before, vars(session)):
            session.updated_at = self.now()
            session.revision += 1

    def _change_user(self, user_id: str, change: Change | None) -> None:
        if change is not None and user_id in self._users:
            self.update_user(user_id, change[0], mode=change[1])

    def _restore(self, session: Session) -> None:
        session.is_deleted = False
        session.revision += 1

    def _append(self, session: Session, message: Message) -> Message:
        session.last_sequence += 1
        message.revision = session.deleted_revisions.pop(message.message_id, 0) + 1
        message.sequence = session.last_sequence
        if isinstance(message.created_at, Later):  # the request had none
            message.created_at = self.now()
        message.updated_at = session.updated_at = self.now()
        session.messages.append(message)
        return message

    def _upsert(self, session: Session, old: Message, new: Message) -> Message:
        if not old.equals(new):
            old.role, old.content = new.role, new.content
            old.metadata, old.token_count = new.metadata, new.token_count
            old.payload, old.payload_type = new.payload, new.payload_type
            old.updated_at = session.updated_at = self.now()
            old.revision += 1
        return old

    def get_memory(
        self,
        session_id: str,
        *,
        last_n: int,
        max_tokens: int,
        start_roles: Collection[str] = (),
        pinned_roles: Collection[str] = (),
        passes: Callable[[Message], bool] = lambda _: True,
    ) -> Memory:
        session = self.session(session_id)
        passing = [message for message in session.messages if passes(message)]
        limit = min(last_n or self._window, 1000)

        def fit(messages: Sequence[Message]) -> bool:
            tokens = sum(map(tokens_of, messages))
            return len(messages) <= limit and (max_tokens == 0 or tokens <= max_tokens)

        def pinned_before(start: int) -> list[Message]:
            return [one for one in passing[:start] if one.role in pinned_roles][-16:]

        end = len(passing)
        start = next((n for n in range(end) if fit([*pinned_before(n), *passing[n:]])), end)
        pinned = pinned_before(start)
        while not fit([*pinned, *passing[start:]]):
            del pinned[0]
        chosen = [*pinned, *passing[start:]]
        while start < end and start_roles and passing[start].role not in start_roles:
            start += 1
        pinned = [one for one in pinned_before(start) if one in chosen]
        messages = [*pinned, *passing[start:]]
        return Memory(
            messages, session.metadata, has_more=len(messages) < len(passing), total=len(passing)
        )

    def messages(
        self,
        session_id: str,
        *,
        newest_first: bool,
        cursor: int,
        passes: Callable[[Message], bool] = lambda _: True,
    ) -> list[Message]:
        """Return the rest of a listing after a cursor."""
        live = [message for message in self.session(session_id).messages if passes(message)]
        return after_cursor(
            cursor, live, lambda message: message.sequence, newest_first=newest_first
        )

    def update_message(
        self, session_id: str, message_id: str, *, mode: Mode, revision: int | None, **given: Any
    ) -> Message:
        message, session = self.message(session_id, message_id), self.session(session_id)
        check("revision", revision, message.revision)
        before = vars(message).copy()
        if "metadata" in given:
            given["metadata"] = changed(message.metadata, given["metadata"], mode)
        for name, value in given.items():
            setattr(message, name, value)
        if differs(before, vars(message)):
            message.updated_at = session.updated_at = self.now()
            message.revision += 1
        self._extend(session)
        return message

    def delete_messages(
        self,
        session_id: str,
        *,
        message_ids: Sequence[str],
        first_n: int,
        last_n: int,
        expected: Expected,
    ) -> list[Message]:
        session = self.session(session_id)
        self.check_session(session_id, expected)
        if message_ids:
            gone = [message for message in session.messages if message.message_id in message_ids]
        elif first_n:
            gone = session.messages[:first_n]
        else:
            gone = session.messages[-last_n:]
        session.delete(gone)
        if gone:
            session.updated_at = self.now()
        self._extend(session)
        return gone

    # AdminService

    def purge(self) -> tuple[int, int, int]:
        """Remove all deleted rows; return the numbers of messages, sessions and users."""
        messages = 0
        for session in self._sessions.values():
            messages += len(session.deleted_revisions)
            session.deleted_revisions.clear()
        deleted = [session for session in self._sessions.values() if session.is_deleted]
        for session in deleted:
            del self._sessions[session.session_id]
        return messages, len(deleted), self.purge_users()

    def purge_session(self, session_id: str) -> None:
        """Remove a deleted session, whose messages were removed before it."""
        del self._sessions[session_id]

    def may_have_purged(self) -> None:
        """Record that any deleted message or user may have been removed, or not."""
        for session in self._sessions.values():
            session.deleted_revisions = dict.fromkeys(session.deleted_revisions, Later(0))
        self._deleted_revisions = dict.fromkeys(self._deleted_revisions, Later(0))

    # The whole

    @property
    def state(self) -> tuple[dict[str, Session], dict[str, User], dict[str, Number]]:
        """Return all sessions, deleted ones too, all live users, and the deleted ones."""
        return self._sessions, self._users, self._deleted_revisions

    def has_session(self, session_id: str) -> bool:
        """Return whether a session is live."""
        session = self._sessions.get(session_id)
        return session is not None and not session.is_deleted

    def has_user(self, user_id: str) -> bool:
        """Return whether a user is live."""
        return user_id in self._users

    @contextmanager
    def at_any_time(self) -> Iterator[None]:
        """Carry out a call in the block that may have begun before others that came earlier."""
        clock, last_ids = self._clock, self._last_ids
        self._clock, self._last_ids = 0, dict.fromkeys(last_ids, 0)
        try:
            yield
        finally:
            self._clock, self._last_ids = clock, last_ids

    def _create(
        self, session_id: str, user_id: str, metadata: Metadata, ttl: int | None
    ) -> Session:
        """Create a session, or replace a deleted one: only its sequences continue."""
        position, now = self.next_id(Session), self.now()
        session = Session(session_id, user_id, metadata, position, now, now)
        if old := self._sessions.get(session_id):
            session.last_sequence, session.revision = old.last_sequence, old.revision + 1
            session.deleted_revisions = old.deleted_revisions
        self._sessions[session_id] = session
        self.ensure_user(user_id)
        self._set_ttl(session, ttl)
        self._extend(session)
        return session
