"""The rules that call MemoryService."""

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule

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
from tests.support.state_machine import requests
from tests.support.state_machine.session_rules import SessionRules

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
        self.call(request)
        self.look_at(request.session_id)

    @rule(request=requests.reads)
    def read(self, request: GetMemoryRequest | ListMessagesRequest | StreamMessagesRequest) -> None:
        match request:
            case GetMemoryRequest():
                self.call(request)
                for max_tokens in (1, 2, 3):  # off-by-one errors show at budgets that just fit
                    request.max_tokens = max_tokens
                    self.call(request)
            case ListMessagesRequest():
                for newest_first in (False, True):
                    request.newest_first = newest_first
                    self.call(request)
            case StreamMessagesRequest():
                self.call(request)

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
        self.call(GetMessageRequest(session_id=session_id, message_id=message_id))

    @rule(request=requests.update_message)
    def update_message(self, request: UpdateMessageRequest) -> None:
        request.message_id = self._name(request.session_id, request.message_id)
        self.call(request)
        self.look_at(request.session_id)

    @rule(request=requests.delete_messages)
    def delete_messages(self, request: DeleteMessagesRequest) -> None:
        named = [self._name(request.session_id, name) for name in request.message_ids]
        request.message_ids[:] = named
        self.call(request)
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
        self.call(request)
