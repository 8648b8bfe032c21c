"""The rules that call UserService."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    ListAllUsersRequest,
    ListUsersRequest,
    UpdateUserRequest,
)
from tests.support.state_machine import requests
from tests.support.state_machine.answers import expected_by, kept
from tests.support.state_machine.memory_rules import MemoryRules
from tests.support.state_machine.session_rules import DEFAULT_LIMIT


class UserRules(MemoryRules):
    """The rules that call UserService."""

    @rule(request=requests.add_user)
    def add_user(self, request: AddUserRequest) -> None:
        answer = self._answers.send(
            request,
            lambda: self._model.add_user(
                request.user_id,
                email=request.email,
                first_name=request.first_name,
                last_name=request.last_name,
                metadata=kept(request.metadata),
            ),
        )
        if answer:
            self._answers.compare_user(answer.expected, answer.response)
        self.look_at_users()

    @rule(request=requests.update_user)
    def update_user(self, request: UpdateUserRequest) -> None:
        given: dict[str, Any] = {
            name: getattr(request, name)
            for name in ("email", "first_name", "last_name")
            if request.HasField(name)
        }
        answer = self._answers.send(
            request,
            lambda: self._model.update_user(
                request.user_id,
                kept(request.metadata) if request.HasField("metadata") else None,
                mode=request.metadata_mode,
                revision=expected_by(request).revision,
                allow_missing=request.allow_missing,
                **given,
            ),
        )
        if answer:
            self._answers.compare_user(answer.expected, answer.response)
        self.look_at_users()

    @rule(user_id=requests.some_user_ids, revision=requests.revisions)
    def delete_user(self, user_id: str, revision: int | None = None) -> None:
        answer = self._answers.send(
            DeleteUserRequest(user_id=user_id, expected_revision=revision),
            lambda: self._model.delete_user(user_id, revision),
        )
        if answer:
            sessions, messages = answer.expected
            assert answer.response.sessions_deleted == sessions
            assert answer.response.messages_deleted == messages
            self._answers.settle_time(self._model.now(), answer.response.deleted_at)
        for session_id in requests.SESSION_IDS:
            self.look_at(session_id)

    @rule(user_id=requests.some_user_ids, request=requests.add_memory)
    def delete_user_and_add_memory(self, user_id: str, request: AddMemoryRequest) -> None:
        self.delete_user(user_id)
        self.add_memory(request)

    @rule(request=requests.list_users, after=st.integers(-1, 3))
    def list_users(self, request: ListUsersRequest, after: int) -> None:
        users = self.all_users()
        if 0 <= after < len(users):
            request.cursor = users[after].id  # type: ignore[assignment]
        expected = self._model.users(newest_first=request.newest_first, cursor=request.cursor)
        limit = request.limit or DEFAULT_LIMIT
        (page,) = self._client.send(request)
        self._answers.compare_page("users", expected, page, limit)
        stream = ListAllUsersRequest(
            chunk_size=request.limit, cursor=request.cursor, newest_first=request.newest_first
        )
        self._answers.compare_chunks("users", expected, self._client.send(stream), limit)
