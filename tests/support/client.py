"""What tests call the service with: a real channel, and the stubs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.struct_pb2 import Struct
from google.rpc.status_pb2 import Status
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest, AddMemoryResponse
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver.v1.session_service_pb2_grpc import SessionServiceStub
from palaver.v1.user_service_pb2_grpc import UserServiceStub

DetailT = TypeVar("DetailT", bound=ProtobufMessage)


@dataclass
class Client:
    """The stubs of all services, on one channel."""

    channel: grpc.Channel
    address: str

    def __post_init__(self) -> None:
        self.sessions = SessionServiceStub(self.channel)
        self.memory = MemoryServiceStub(self.channel)
        self.users = UserServiceStub(self.channel)
        self.admin = AdminServiceStub(self.channel)
        self.health = HealthStub(self.channel)

    def add(
        self, session_id: str, *contents: str, timeout: float | None = None, **fields: Any
    ) -> AddMemoryResponse:
        """Adds messages of these contents, without ids, as the role `user`."""
        messages = [Message(role="user", content=content) for content in contents]
        return self.memory.AddMemory(
            AddMemoryRequest(session_id=session_id, messages=messages, **fields), timeout=timeout
        )

    def send(self, request: ProtobufMessage) -> list[ProtobufMessage]:
        """Makes the call whose request this is, to its end, and gives its responses."""
        name = type(request).__name__.removesuffix("Request")
        stubs = (self.sessions, self.memory, self.users, self.admin)
        response = next(getattr(stub, name) for stub in stubs if hasattr(stub, name))(request)
        return [response] if isinstance(response, ProtobufMessage) else list(response)


@contextmanager
def connected(address: str) -> Iterator[Client]:
    """Gives a client of the server at an address."""
    with grpc.insecure_channel(address) as channel:
        yield Client(channel, address)


class Refusal:
    """How a call was refused, filled in when the block of `refused` has ended."""

    status: Status

    def detail(self, kind: type[DetailT]) -> DetailT:
        """Gives the one detail of the status, which must be of this kind."""
        (packed,) = self.status.details
        detail = kind()
        assert packed.Unpack(detail), f"the detail is a {packed.type_url}"
        return detail


@contextmanager
def refused(code: grpc.StatusCode) -> Iterator[Refusal]:
    """Expects a call in the block to end with this code, and gives its details."""
    refusal = Refusal()
    with pytest.raises(grpc.RpcError) as raised:
        yield refusal
    call = cast("grpc.Call", raised.value)
    assert call.code() is code, f"{call.code()}: {call.details()}"
    status = rpc_status.from_call(call)
    assert status is not None, "the error has no details"
    refusal.status = status


def struct(**fields: Any) -> Struct:
    """Builds a Struct."""
    result = Struct()
    result.update(fields)
    return result


def wait_until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds; fails if it does not in time."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)
