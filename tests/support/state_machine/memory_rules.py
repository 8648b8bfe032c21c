"""The rules that call MemoryService."""

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

from palaver.v1 import memory_pb2
from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    DeleteMessagesRequest,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    SearchMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest
from tests.support.model import state
from tests.support.model.sequential import Change
from tests.support.state_machine import requests
from tests.support.state_machine.answers import expected_by, kept, plain, stored_time
from tests.support.state_machine.session_rules import DEFAULT_LIMIT, SessionRules

MAX_RESULTS = 100


class MemoryRules(SessionRules):
    """The rules that call MemoryService."""

    @initialize(
        session=requests.add_session, batches=st.lists(requests.add_memory, min_size=1, max_size=3)
    )
    def begin(self, session: AddSessionRequest, batches: list[AddMemoryRequest]) -> None:
        self.add_session(session)
        for request in batches:
            self.add_memory(request)

    @rule(
        session_id=requests.session_ids,
        meanwhile=st.sampled_from(["", "", "delete", "delete", "delete and purge"]),
    )
    def add_memory_again(self, session_id: str, meanwhile: str) -> None:
        """Retry the last add to the session, if there was one, perhaps after a delete."""
        if session_id in self._last_added:
            if "delete" in meanwhile:
                self.delete_session(session_id, DeleteSessionRequest)
            if "purge" in meanwhile:
                self.purge_deleted(PurgeDeletedRequest(older_than=Duration()))
            self.add_memory(self._last_added[session_id])

    @rule(request=requests.add_memory)
    def add_memory(self, request: AddMemoryRequest) -> None:
        self._last_added[request.session_id] = request
        answer = self._answers.send(
            request,
            lambda: self._model.add_memory(
                request.session_id,
                [_as_given(message) for message in request.messages],
                user_id=request.user_id,
                expected=expected_by(request),
                session_must_exist=request.session_must_exist,
                session_change=_change(request, "session_metadata"),
                user_change=_change(request, "user_metadata"),
                replace=request.replace_messages,
            ),
        )
        if answer:
            expected, actual = answer.expected, answer.response
            assert actual.session_created == expected.session_created
            assert actual.session_undeleted == expected.session_undeleted
            assert actual.messages_deleted == expected.messages_deleted
            assert actual.HasField("session") == request.return_session
            if request.return_session:
                self._answers.compare_session(
                    self._model.session(request.session_id), actual.session
                )
            for added, told in zip(expected.messages, actual.messages, strict=True):
                self._answers.compare_added(added, told)
        self.look_at(request.session_id)

    @rule(request=requests.reads)
    def read(self, request: GetMemoryRequest | ListMessagesRequest | StreamMessagesRequest) -> None:
        match request:
            case GetMemoryRequest():
                self._get_memory(request)
                for max_tokens in (1, 2, 3):  # off-by-one errors show at budgets that just fit
                    request.max_tokens = max_tokens
                    self._get_memory(request)
            case ListMessagesRequest():
                for newest_first in (False, True):
                    request.newest_first = newest_first
                    self._list_messages(request)
            case StreamMessagesRequest():
                self._stream_messages(request)

    def _get_memory(self, request: GetMemoryRequest) -> None:
        answer = self._answers.send(
            request,
            lambda: self._model.get_memory(
                request.session_id,
                last_n=request.last_n,
                max_tokens=request.max_tokens,
                start_roles=request.start_roles,
                pinned_roles=request.pinned_roles,
                passes=requests.passes(request.filter),
            ),
        )
        if answer:
            expected, actual = answer.expected, answer.response
            assert actual.session_id == request.session_id
            assert actual.HasField("session") == request.return_session
            assert actual.HasField("metadata") != request.return_session
            metadata = actual.session.metadata if request.return_session else actual.metadata
            assert state.as_json(plain(metadata)) == state.as_json(expected.metadata)
            assert actual.has_more == expected.has_more
            assert actual.HasField("total_count") == request.total_count
            assert not request.total_count or actual.total_count == expected.total
            self._answers.compare_messages(expected.messages, actual.messages)

    def _list_messages(self, request: ListMessagesRequest) -> None:
        answer = self._answers.send(
            request,
            lambda: self._model.messages(
                request.session_id,
                newest_first=request.newest_first,
                cursor=request.cursor,
                passes=requests.passes(request.filter),
            ),
        )
        if answer:
            limit = request.limit or DEFAULT_LIMIT
            self._answers.compare_page("messages", answer.expected, answer.response, limit)

    def _stream_messages(self, request: StreamMessagesRequest) -> None:
        answer = self._answers.send(
            request,
            lambda: self._model.messages(
                request.session_id,
                newest_first=False,
                cursor=request.cursor,
                passes=requests.passes(request.filter),
            ),
        )
        if answer:
            limit = request.chunk_size or DEFAULT_LIMIT
            self._answers.compare_chunks("messages", answer.expected, answer.responses, limit)

    def _name(self, session_id: str, message_id: str) -> str:
        """Replace NEWEST with the id of the newest message, if there is one."""
        if message_id == requests.NEWEST:
            for session in self.all_sessions():
                if session.session_id == session_id and session.messages:
                    return session.messages[-1].message_id
        return message_id

    @rule(session_id=requests.session_ids, message_id=requests.message_ids)
    def get_message(self, session_id: str, message_id: str) -> None:
        message_id = self._name(session_id, message_id)
        answer = self._answers.send(
            GetMessageRequest(session_id=session_id, message_id=message_id),
            lambda: self._model.message(session_id, message_id),
        )
        if answer:
            self._answers.compare_messages([answer.expected], answer.responses)

    @rule(request=requests.update_message)
    def update_message(self, request: UpdateMessageRequest) -> None:
        request.message_id = self._name(request.session_id, request.message_id)
        given = {
            name: getattr(request, name)
            for name in ("role", "content", "token_count")
            if request.HasField(name)
        }
        if request.HasField("metadata"):
            given["metadata"] = kept(request.metadata)
        answer = self._answers.send(
            request,
            lambda: self._model.update_message(
                request.session_id,
                request.message_id,
                mode=request.metadata_mode,
                revision=expected_by(request).revision,
                **given,
            ),
        )
        if answer:
            self._answers.compare_messages([answer.expected], answer.responses)
        self.look_at(request.session_id)

    @rule(request=requests.delete_messages)
    def delete_messages(self, request: DeleteMessagesRequest) -> None:
        named = [self._name(request.session_id, name) for name in request.message_ids]
        request.message_ids[:] = named
        answer = self._answers.send(
            request,
            lambda: self._model.delete_messages(
                request.session_id,
                message_ids=request.message_ids,
                first_n=request.first_n,
                last_n=request.last_n,
                expected=expected_by(request),
            ),
        )
        if answer:
            self._answers.compare_messages(answer.expected, answer.response.messages)
        self.look_at(request.session_id)

    @rule(
        session_id=st.none() | requests.session_ids,
        text=st.sampled_from(["", *requests.WORDS]),
    )
    def search_memory(self, session_id: str | None, text: str) -> None:
        """Search for a word or for everything: exactly the live messages match."""
        request = SearchMemoryRequest(
            text=text, mode=SearchMemoryRequest.KEYWORD, limit=MAX_RESULTS
        )
        if session_id is not None:
            request.session_id = session_id
        answer = self._answers.send(
            request,
            lambda: (
                self.all_sessions() if session_id is None else [self._model.session(session_id)]
            ),
        )
        if answer:
            expected = {
                (session.session_id, message.message_id): message
                for session in answer.expected
                for message in session.messages
                if text in message.content
            }
            found = {
                (result.session_id, result.message.message_id): result.message
                for result in answer.response.results
            }
            assert len(found) == len(answer.response.results)
            if len(expected) <= MAX_RESULTS:
                assert found.keys() == expected.keys()
                self._answers.compare_messages(
                    [expected[key] for key in found], list(found.values())
                )


def _change(request: AddMemoryRequest, field: str) -> Change | None:
    """Return the change that a request asks for."""
    if not request.HasField(field):  # type: ignore[arg-type]
        return None
    return kept(getattr(request, field)), getattr(request, f"{field}_mode")


def _as_given(message: memory_pb2.Message) -> state.Message:
    """Convert a message to the model's; times are kept in microseconds, rounded down."""
    given = state.Message(
        message.message_id,
        message.role,
        message.content,
        kept(message.metadata),
        message.token_count,
    )
    if (created_at := stored_time(message)) is not None:
        given.created_at = created_at
    return given
