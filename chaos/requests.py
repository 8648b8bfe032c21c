"""Random requests about a few sessions and a user, made from what is known of them."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from chaos.caller import Request
from chaos.reads import WORD
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    SearchMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.metadata_pb2 import MetadataMode
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    GetUserRequest,
    UpdateUserRequest,
)
from tests.support.model import state
from tests.support.model.sequential import Model

_MAX_RESULTS = 100

_ROLES = ("user", "assistant", "tool")

_METADATA: Sequence[dict[str, Any]] = (
    {},
    {"a": 1.0},
    {"a": None, "b": "x"},
    {"b": {"c": True}},
    {"b": {"c": None, "d": [1.0, None]}},
)


_PAYLOADS = (b"", b"\x00\xff", b"chaos" * 1000)

# Most sessions never expire, some may between two calls, and some later than the run ends.
_TTLS = (*27 * (None,), Duration(), Duration(seconds=2), Duration(seconds=3600))


class RandomRequests:
    """Makes requests that a model can answer.

    Args:
        new_name: Returns a word that names nothing else.
        session_ids: The sessions that the requests are about.
        user_id: The user to whom some of the sessions belong.
    """

    def __init__(
        self,
        random: Random,
        new_name: Callable[[], str],
        session_ids: Sequence[str],
        user_id: str,
    ) -> None:
        self._random = random
        self._new_name = new_name
        self._session_ids = session_ids
        self._user_id = user_id
        self._writes: dict[Callable[[Model, str], Request], int] = {
            self._add_memory: 24,
            self._update_message: 10,
            self._delete_messages: 6,
            self._update_session: 8,
            self._add_session: 4,
            self._delete_session: 3,
            self._update_user: 3,
            self._add_user: 3,
            self._delete_user: 1,
        }
        self._reads = (
            self._get_session,
            self._get_memory,
            self._list_messages,
            self._get_message,
            self._search_memory,
            self._get_user,
        )

    def write(self, model: Model) -> Request:
        """Return a request that may change something."""
        (make,) = self._random.choices(list(self._writes), list(self._writes.values()))
        return make(model, self._random.choice(self._session_ids))

    def read(self, model: Model, *, settled: bool) -> Request:
        """Return a request that changes nothing.

        Args:
            model: What is known.
            settled: Nothing changes during the read, which may have several snapshots.
        """
        reads = (*self._reads, self._stream_messages, self._list_sessions)
        make = self._random.choice(reads if settled else self._reads)
        return make(model, self._random.choice(self._session_ids))

    def _add_memory(self, model: Model, session_id: str) -> Request:
        session = model.state[0].get(session_id)
        # The sequence makes it safe to retry a message without an id.
        has_sequence = self._chance(0.5)
        messages = [
            self._new_message(has_id=not has_sequence or self._chance(0.5))
            for _ in range(self._random.randint(1, 3))
        ]
        if (old := self._message(session)) and self._chance(0.5):
            content = old.content + self._random.choice(("", " again"))
            messages.append(Message(message_id=old.message_id, role=old.role, content=content))
        deleted = [name for name in session.deleted_revisions if name] if session else []
        if deleted and self._chance(0.5):
            name = self._random.choice(deleted)
            messages.append(Message(message_id=name, role="user", content=f"{name} {WORD}"))
        return AddMemoryRequest(
            session_id=session_id,
            messages=messages,
            user_id=self._user_id if self._chance(0.5) else None,
            expected_last_sequence=self._near(session.last_sequence if session else 0)
            if has_sequence
            else None,
            expected_revision=self._revision(model, session_id),
            session_must_exist=self._chance(0.1),
            session_metadata=self._metadata(0.2),
            session_metadata_mode=self._mode(),
            user_metadata=self._metadata(0.1),
            user_metadata_mode=self._mode(),
            return_session=self._chance(0.3),
            replace_messages=self._chance(0.1),
            ttl=self._ttl(),
        )

    def _update_message(self, model: Model, session_id: str) -> Request:
        message = self._message(model.state[0].get(session_id))
        if message is None and self._chance(0.9):
            return self._add_memory(model, session_id)
        return UpdateMessageRequest(
            session_id=session_id,
            message_id=message.message_id if message else "nothing",
            role=self._random.choice((None, *_ROLES)),
            content=f"{message.content} again" if message and self._chance(0.5) else None,
            token_count=self._random.choice((None, 0, 7)),
            payload=self._random.choice((None, None, *_PAYLOADS)),
            metadata=self._metadata(0.5),
            metadata_mode=self._mode(),
            expected_revision=self._maybe(message.revision if message else 0),
        )

    def _delete_messages(self, model: Model, session_id: str) -> Request:
        session = model.state[0].get(session_id)
        if self._message(session) is None and self._chance(0.9):
            return self._add_memory(model, session_id)
        request = DeleteMessagesRequest(
            session_id=session_id,
            expected_revision=self._revision(model, session_id),
            expected_last_sequence=self._maybe(session.last_sequence if session else 0),
        )
        match self._random.choice(("ids", "first", "last")):
            case "first":
                request.first_n = self._random.randint(1, 2)
            case "last":
                request.last_n = self._random.randint(1, 2)
            case _:
                chosen = filter(None, [self._message(session) for _ in range(2)])
                names = {message.message_id for message in chosen}
                request.message_ids.extend(sorted(names) or ["nothing"])
        return request

    def _update_session(self, model: Model, session_id: str) -> Request:
        return UpdateSessionRequest(
            session_id=session_id,
            metadata=self._metadata(0.7),
            metadata_mode=self._mode(),
            user_id=self._random.choice((None, None, self._user_id, "")),
            expected_revision=self._revision(model, session_id),
            allow_missing=self._chance(0.3),
            undelete=self._chance(0.3),
            ttl=self._ttl(),
        )

    def _add_session(self, _model: Model, session_id: str) -> Request:
        return AddSessionRequest(
            session_id=session_id,
            user_id=self._random.choice(("", self._user_id)),
            metadata=self._metadata(0.5),
            user_must_exist=self._chance(0.3),
            ttl=self._ttl(),
        )

    def _delete_session(self, model: Model, session_id: str) -> Request:
        kind = self._random.choice((DeleteSessionRequest, DeleteMemoryRequest))
        session = model.state[0].get(session_id)
        return kind(
            session_id=session_id,
            expected_revision=self._revision(model, session_id),
            expected_last_sequence=self._maybe(session.last_sequence if session else 0),
        )

    def _update_user(self, model: Model, _session_id: str) -> Request:
        return UpdateUserRequest(
            user_id=self._user_id,
            email=self._random.choice((None, "", "ada@example.com")),
            metadata=self._metadata(0.7),
            metadata_mode=self._mode(),
            expected_revision=self._user_revision(model),
            allow_missing=self._chance(0.3),
        )

    def _add_user(self, _model: Model, _session_id: str) -> Request:
        return AddUserRequest(user_id=self._user_id, first_name="Ada", metadata=self._metadata(0.5))

    def _delete_user(self, model: Model, _session_id: str) -> Request:
        return DeleteUserRequest(
            user_id=self._user_id, expected_revision=self._user_revision(model)
        )

    def _get_session(self, _model: Model, session_id: str) -> Request:
        return GetSessionRequest(session_id=session_id)

    def _get_memory(self, _model: Model, session_id: str) -> Request:
        return GetMemoryRequest(
            session_id=session_id,
            last_n=self._random.choice((0, 2, 5)),
            max_tokens=self._random.choice((0, 0, 9)),
            start_roles=self._random.choice(([], ["user"])),
            return_session=self._chance(0.5),
            total_count=self._chance(0.5),
        )

    def _list_messages(self, _model: Model, session_id: str) -> Request:
        return ListMessagesRequest(
            session_id=session_id,
            limit=self._random.choice((3, 1000)),
            cursor=self._random.randrange(4),
            newest_first=self._chance(0.5),
        )

    def _stream_messages(self, _model: Model, session_id: str) -> Request:
        return StreamMessagesRequest(session_id=session_id, chunk_size=3)

    def _get_message(self, model: Model, session_id: str) -> Request:
        message = self._message(model.state[0].get(session_id))
        return GetMessageRequest(
            session_id=session_id,
            message_id=message.message_id if message else "nothing",
            without_payload=self._chance(0.3),
        )

    def _search_memory(self, _model: Model, session_id: str) -> Request:
        return SearchMemoryRequest(session_id=session_id, text=WORD, limit=_MAX_RESULTS)

    def _get_user(self, _model: Model, _session_id: str) -> Request:
        return GetUserRequest(user_id=self._user_id)

    def _list_sessions(self, model: Model, _session_id: str) -> Request:
        for session in model.state[0].values():
            if isinstance(session.id, state.Later) and not session.is_deleted:
                return GetSessionRequest(session_id=session.session_id)  # tells the position
        return ListSessionsRequest(filter=SessionFilter(user_id=self._user_id))

    def _new_message(self, *, has_id: bool) -> Message:
        name = self._new_name()
        return Message(
            message_id=name if has_id else "",
            role=self._random.choice(_ROLES),
            content=f"{name} {WORD}",
            metadata=self._metadata(0.3),
            payload=self._random.choice((b"", *_PAYLOADS)),
            payload_type=self._random.choice(("", "image/png")),
        )

    def _message(self, session: state.Session | None) -> state.Message | None:
        """Return one of the messages whose id is known, if there are any."""
        messages = [one for one in session.messages if one.message_id] if session else []
        return self._random.choice(messages) if messages else None

    def _revision(self, model: Model, session_id: str) -> int | None:
        session = model.state[0].get(session_id)
        return self._maybe(session.revision if session and not session.is_deleted else 0)

    def _user_revision(self, model: Model) -> int | None:
        user = model.state[1].get(self._user_id)
        return self._maybe(user.revision if user else 0)

    def _maybe(self, number: state.Number) -> int | None:
        """Return, sometimes, what a value is expected to be."""
        expects = isinstance(number, int) and self._chance(0.3)
        return self._near(number) if isinstance(number, int) and expects else None

    def _near(self, number: int) -> int:
        """Return the number, or sometimes another."""
        return number + self._chance(0.1)

    def _metadata(self, chance: float) -> Struct | None:
        if not self._chance(chance):
            return None
        metadata = Struct()
        metadata.update(self._random.choice(_METADATA))
        return metadata

    def _ttl(self) -> Duration | None:
        return self._random.choice(_TTLS)

    def _mode(self) -> MetadataMode.ValueType:
        return self._random.choice(MetadataMode.values())

    def _chance(self, chance: float) -> bool:
        return self._random.random() < chance
