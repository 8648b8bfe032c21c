"""The rules that call UserService."""

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
from tests.support.state_machine.memory_rules import MemoryRules


class UserRules(MemoryRules):
    """The rules that call UserService."""

    @rule(request=requests.add_user)
    def add_user(self, request: AddUserRequest) -> None:
        self.call(request)
        self.look_at_users()

    @rule(request=requests.update_user)
    def update_user(self, request: UpdateUserRequest) -> None:
        self.call(request)
        self.look_at_users()

    @rule(user_id=requests.some_user_ids, revision=requests.revisions)
    def delete_user(self, user_id: str, revision: int | None = None) -> None:
        self.call(DeleteUserRequest(user_id=user_id, expected_revision=revision))
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
        self.call(request)
        stream = ListAllUsersRequest(
            chunk_size=request.limit,
            cursor=request.cursor,
            newest_first=request.newest_first,
            filter=request.filter,
        )
        self.call(stream)
