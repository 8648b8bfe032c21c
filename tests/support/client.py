"""The test client: stubs and RPC methods on a real channel, and expectations of refusals."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct
from google.rpc.error_details_pb2 import BadRequest
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver.v1.memory_pb2 import Memory, Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMemoryRequest,
    DeleteMemoryResponse,
    DeleteMessagesRequest,
    DeleteMessagesResponse,
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
    StreamMessagesRequest,
    StreamMessagesResponse,
    UpdateMessageRequest,
)
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver.v1.session_pb2 import Session, SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    CountSessionsRequest,
    CountSessionsResponse,
    DeleteSessionRequest,
    DeleteSessionResponse,
    GetSessionRequest,
    ListAllSessionsRequest,
    ListAllSessionsResponse,
    ListSessionsRequest,
    ListSessionsResponse,
    UpdateSessionRequest,
)
from palaver.v1.session_service_pb2_grpc import SessionServiceStub
from palaver.v1.user_pb2 import User
from palaver.v1.user_service_pb2 import (
    AddUserRequest,
    DeleteUserRequest,
    DeleteUserResponse,
    GetUserRequest,
    ListAllUsersRequest,
    ListAllUsersResponse,
    ListUsersRequest,
    ListUsersResponse,
    UpdateUserRequest,
)
from palaver.v1.user_service_pb2_grpc import UserServiceStub

DetailT = TypeVar("DetailT", bound=ProtobufMessage)

NOW = Duration()

# The default limit of gRPC clients for a response.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024


@dataclass
class Client:
    """The stubs of all services on one channel, and a method for each RPC.

    A method takes the request's fields and returns the response; it reads a stream to its end.
    A test that needs a deadline, metadata or the call itself uses the stubs.
    """

    channel: grpc.Channel
    address: str

    def __post_init__(self) -> None:
        self.sessions = SessionServiceStub(self.channel)
        self.memory = MemoryServiceStub(self.channel)
        self.users = UserServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.health = HealthStub(self.channel)

    def add_session(self, session_id: str, **fields: Any) -> Session:
        return self.sessions.AddSession(AddSessionRequest(session_id=session_id, **fields))

    def add_sessions(self, *session_ids: str, **fields: Any) -> None:
        """Add sessions one after the other, all with these fields."""
        for session_id in session_ids:
            self.add_session(session_id, **fields)

    def get_session(self, session_id: str) -> Session:
        return self.sessions.GetSession(GetSessionRequest(session_id=session_id))

    def update_session(self, session_id: str, **fields: Any) -> Session:
        return self.sessions.UpdateSession(UpdateSessionRequest(session_id=session_id, **fields))

    def delete_session(self, session_id: str, **fields: Any) -> DeleteSessionResponse:
        return self.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id, **fields))

    def list_sessions(self, **fields: Any) -> ListSessionsResponse:
        return self.sessions.ListSessions(ListSessionsRequest(**fields))

    def list_all_sessions(self, **fields: Any) -> list[ListAllSessionsResponse]:
        return list(self.sessions.ListAllSessions(ListAllSessionsRequest(**fields)))

    def count_sessions(self, *, limit: int = 0, **narrowed: Any) -> CountSessionsResponse:
        """Count the sessions that pass this filter."""
        request = CountSessionsRequest(filter=SessionFilter(**narrowed), limit=limit)
        return self.sessions.CountSessions(request)

    def session_ids(self, **narrowed: Any) -> list[str]:
        """Return the ids of the sessions that pass this filter, at most one page of them."""
        page = self.list_sessions(filter=SessionFilter(**narrowed))
        return [session.session_id for session in page.sessions]

    def add(
        self, session_id: str, *contents: str, timeout: float | None = None, **fields: Any
    ) -> AddMemoryResponse:
        """Add messages with these contents, without ids, as the role `user`."""
        messages = [Message(role="user", content=content) for content in contents]
        request = AddMemoryRequest(session_id=session_id, messages=messages, **fields)
        return self.memory.AddMemory(request, timeout=timeout)

    def add_memory(
        self, session_id: str, messages: Iterable[Message], **fields: Any
    ) -> AddMemoryResponse:
        request = AddMemoryRequest(session_id=session_id, messages=messages, **fields)
        return self.memory.AddMemory(request)

    def add_ids(self, session_id: str, *message_ids: str, **fields: Any) -> AddMemoryResponse:
        """Add messages with these ids, each with the content `new`."""
        messages = [Message(message_id=name, role="user", content="new") for name in message_ids]
        return self.add_memory(session_id, messages, **fields)

    def get_memory(self, session_id: str, **fields: Any) -> Memory:
        return self.memory.GetMemory(GetMemoryRequest(session_id=session_id, **fields))

    def contents(self, session_id: str, **fields: Any) -> list[str]:
        """Return the contents of the messages that GetMemory returns."""
        return [message.content for message in self.get_memory(session_id, **fields).messages]

    def delete_memory(self, session_id: str, **fields: Any) -> DeleteMemoryResponse:
        return self.memory.DeleteMemory(DeleteMemoryRequest(session_id=session_id, **fields))

    def list_messages(self, session_id: str, **fields: Any) -> ListMessagesResponse:
        return self.memory.ListMessages(ListMessagesRequest(session_id=session_id, **fields))

    def stream_messages(self, session_id: str, **fields: Any) -> list[StreamMessagesResponse]:
        request = StreamMessagesRequest(session_id=session_id, **fields)
        return list(self.memory.StreamMessages(request))

    def messages(self, session_id: str) -> list[Message]:
        """Return all messages of a session, as StreamMessages returns them."""
        return [message for chunk in self.stream_messages(session_id) for message in chunk.messages]

    def get_message(self, session_id: str, message_id: str) -> Message:
        request = GetMessageRequest(session_id=session_id, message_id=message_id)
        return self.memory.GetMessage(request)

    def update_message(self, session_id: str, message_id: str, **fields: Any) -> Message:
        request = UpdateMessageRequest(session_id=session_id, message_id=message_id, **fields)
        return self.memory.UpdateMessage(request)

    def delete_messages(self, session_id: str, **fields: Any) -> DeleteMessagesResponse:
        return self.memory.DeleteMessages(DeleteMessagesRequest(session_id=session_id, **fields))

    def add_user(self, user_id: str, **fields: Any) -> User:
        return self.users.AddUser(AddUserRequest(user_id=user_id, **fields))

    def get_user(self, user_id: str) -> User:
        return self.users.GetUser(GetUserRequest(user_id=user_id))

    def update_user(self, user_id: str, **fields: Any) -> User:
        return self.users.UpdateUser(UpdateUserRequest(user_id=user_id, **fields))

    def delete_user(self, user_id: str, **fields: Any) -> DeleteUserResponse:
        return self.users.DeleteUser(DeleteUserRequest(user_id=user_id, **fields))

    def list_users(self, **fields: Any) -> ListUsersResponse:
        return self.users.ListUsers(ListUsersRequest(**fields))

    def list_all_users(self, **fields: Any) -> list[ListAllUsersResponse]:
        return list(self.users.ListAllUsers(ListAllUsersRequest(**fields)))

    def purge_deleted(self, older_than: Duration | None = NOW) -> list[PurgeDeletedResponse]:
        """Purge everything deleted by now, or earlier; streams have no default deadline."""
        request = PurgeDeletedRequest(older_than=older_than)
        return list(self.admin.PurgeDeleted(request, timeout=20))

    def purge(self, older_than: Duration | None = NOW) -> PurgeDeletedResponse:
        """Purge everything deleted by now, or earlier, and return the last response."""
        return self.purge_deleted(older_than)[-1]

    def pages(self, request: Any) -> Iterator[Any]:
        """Yield the pages of a listing from the request's cursor to the end."""
        while True:
            (page,) = self.send(request)
            yield page
            if page.next_cursor == 0:  # type: ignore[attr-defined]
                return
            request.cursor = page.next_cursor  # type: ignore[attr-defined]

    def send(self, request: ProtobufMessage) -> list[ProtobufMessage]:
        """Make the call that takes this request, to its end, and return its responses."""
        name = type(request).__name__.removesuffix("Request")
        stubs = (self.sessions, self.memory, self.users, self.admin)
        response = next(getattr(stub, name) for stub in stubs if hasattr(stub, name))(request)
        return [response] if isinstance(response, ProtobufMessage) else list(response)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Yield a client of the server at an address."""
    with grpc.insecure_channel(address) as channel:
        yield Client(channel, address)


class Refusal:
    """The status of a refused call, available after the block of `refused`."""

    status: Status

    def detail(self, kind: type[DetailT]) -> DetailT:
        """Return the only detail of the status, which must be of this type."""
        (packed,) = self.status.details
        detail = kind()
        assert packed.Unpack(detail), f"the detail is a {packed.type_url}"
        return detail


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[Refusal]:
    """Expect a call in the block to end with this code, and yield its status."""
    refusal = Refusal()
    with pytest.raises(grpc.RpcError) as raised:
        yield refusal
    call = cast("grpc.Call", raised.value)
    assert call.code() is code, f"{call.code()}: {call.details()}"
    status = rpc_status.from_call(call)
    assert status is not None, "the error has no details"
    refusal.status = status


def violations(call: Callable[[], object]) -> list[str]:
    """Return the fields that a call is refused for; each must be described and in the message."""
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        call()
    bad = refusal.detail(BadRequest).field_violations
    assert all(violation.description for violation in bad)
    assert all(violation.field in refusal.status.message for violation in bad)
    return [violation.field for violation in bad]


def struct(**fields: Any) -> Struct:
    """Return a Struct with these fields."""
    result = Struct()
    result.update(fields)
    return result


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds; fail after 20 seconds."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true within 20 seconds"
        time.sleep(0.01)
