"""The rules that call SessionService and AdminService, and helpers of all rules."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.memory_service_pb2 import AddMemoryRequest, DeleteMemoryRequest, ListMessagesRequest
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    CountSessionsRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListSessionsRequest,
    UpdateSessionRequest,
)
from palaver.v1.user_service_pb2 import GetUserRequest
from tests.support.client import Client
from tests.support.model import state
from tests.support.model.contract import Contract
from tests.support.model.sequential import Model
from tests.support.state_machine import requests


class SessionRules(RuleBasedStateMachine):
    """Each rule makes a call or two, and reads everything that they may have changed."""

    def __init__(self, client: Client, *, window: int) -> None:
        super().__init__()
        self._client = client
        self._model = Model(window=window)
        self._contract = Contract(self._model)
        self._last_added: dict[str, AddMemoryRequest] = {}
        self._positions = [0]  # cursors for listings, of deleted sessions too

    def all_sessions(self) -> list[state.Session]:
        """Return the live sessions by listing position."""
        return self._model.sessions(newest_first=False, cursor=0, matches=lambda _: True)

    def all_users(self) -> list[state.User]:
        """Return the live users by listing position."""
        return self._model.users(newest_first=False, cursor=0, matches=lambda _: True)

    def call(self, request: Message) -> list[Any] | None:
        """Make a call and compare its end with the model's; return responses, None if refused."""
        try:
            check = self._contract.expect(request)
        except state.Refused as refusal:
            with pytest.raises(grpc.RpcError) as raised:
                self._client.send(request)
            self._contract.compare_refusal(refusal, raised.value)
            return None
        responses = self._client.send(request)
        check(responses)
        return responses

    def look_at_users(self) -> None:
        """Compare every user that may exist."""
        for user_id in requests.USER_IDS:
            self.call(GetUserRequest(user_id=user_id))

    def look_at(self, session_id: str) -> None:
        """Compare all users, a session, and all its messages."""
        self.look_at_users()
        if self.call(GetSessionRequest(session_id=session_id)) is None:
            return
        session = self._model.session(session_id)
        if state.known(session.id) not in self._positions:
            self._positions.append(state.known(session.id))
        self.call(ListMessagesRequest(session_id=session_id, limit=1000))
        for message in session.messages:
            assert state.known(message.updated_at) <= state.known(session.updated_at)

    @rule(request=requests.add_session)
    def replace_session(self, request: AddSessionRequest) -> None:
        self.delete_session(request.session_id, DeleteSessionRequest)
        self.add_session(request)

    @rule(request=requests.add_session)
    def add_session(self, request: AddSessionRequest) -> None:
        self.call(request)
        self.look_at(request.session_id)

    @rule(several=st.lists(requests.update_session, min_size=1, max_size=3))
    def update_sessions(self, several: list[UpdateSessionRequest]) -> None:
        for request in several:
            self.call(request)
            self.look_at(request.session_id)

    @rule(
        session_id=requests.session_ids,
        by=st.sampled_from([DeleteSessionRequest, DeleteMemoryRequest]),
        revision=requests.revisions,
        last_sequence=requests.last_sequences,
    )
    def delete_session(
        self,
        session_id: str,
        by: Callable[..., Any],
        revision: int | None = None,
        last_sequence: int | None = None,
    ) -> None:
        request = by(
            session_id=session_id,
            expected_revision=revision,
            expected_last_sequence=last_sequence,
        )
        self.call(request)
        self.look_at(session_id)

    @rule(request=requests.purge_deleted)
    def purge_deleted(self, request: PurgeDeletedRequest) -> None:
        # No row is an hour old, and the retention is an hour too.
        all_of_it = request.HasField("older_than") and request.older_than != requests.HOUR
        counts = self._model.purge() if all_of_it else (0, 0, 0)
        progress: list[Any] = self._client.send(request)
        parts = [(p.messages, p.sessions, p.users) for p in progress]
        assert all(tuple(part.estimated for part in three) == counts for three in parts)
        done = [tuple(part.done for part in three) for three in parts]
        assert done == sorted(done)
        assert done[-1] == counts

    @rule(request=requests.list_sessions, ranks=st.tuples(*[st.integers(0, 8)] * 5))
    def list_sessions(self, request: ListSessionsRequest, ranks: tuple[int, ...]) -> None:
        after, before = self._created_at(ranks[0]), self._created_at(ranks[1])
        updated_after, updated_before = self._updated_at(ranks[3]), self._updated_at(ranks[4])
        if updated_after:
            request.filter.updated_after.FromNanoseconds(updated_after)
        if updated_before:
            request.filter.updated_before.FromNanoseconds(updated_before)
        if after:
            request.filter.created_after.FromNanoseconds(after)
        if before:
            request.filter.created_before.FromNanoseconds(before)
        request.cursor = self._positions[ranks[2] % len(self._positions)]
        self.call(request)
        stream = ListAllSessionsRequest(
            chunk_size=request.limit,
            cursor=request.cursor,
            newest_first=request.newest_first,
            filter=request.filter,
        )
        self.call(stream)
        self.call(CountSessionsRequest(filter=request.filter, limit=request.limit))

    def _updated_at(self, rank: int) -> int:
        """Return the time of a session's last change, or 0 if there are fewer sessions."""
        times = [state.known(session.updated_at) for session in self.all_sessions()]
        return times[rank] if rank < len(times) else 0

    def _created_at(self, rank: int) -> int:
        """Return the creation time of a session, or 0 if there are fewer sessions."""
        times = [state.known(session.created_at) for session in self.all_sessions()]
        return times[rank] if rank < len(times) else 0
