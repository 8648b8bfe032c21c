"""The methods of the contract, read from its descriptors: tests cover new methods by themselves."""

from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pool import Default as DescriptorPool
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.message_factory import GetMessageClass

from palaver.v1.memory_pb2 import Message
from palaver_server.bootstrap.services import SERVICES
from tests.support.processes import ROOT

# The retry policy for clients.
SERVICE_CONFIG = (ROOT / "clients" / "service_config.json").read_text()

METHODS: list[MethodDescriptor] = [
    method for service in SERVICES for method in DescriptorPool().FindServiceByName(service).methods
]


def path(method: MethodDescriptor) -> str:
    """Return the path of the method in HTTP/2."""
    return f"/{method.containing_service.full_name}/{method.name}"


def request_about(
    method: MethodDescriptor, *, session_id: str, user_id: str = "", message_id: str = "m"
) -> ProtobufMessage:
    """Return a valid request of a method about this session or this user."""
    values: dict[str, Any] = {
        "session_id": session_id,
        "message_id": message_id,
        "message_ids": [message_id],
        "messages": [Message(message_id=message_id, role="user", content="changed")],
        "content": "changed",
    }
    if names_a_user(method):
        values["user_id"] = user_id
    fields = {name: value for name, value in values.items() if name in _fields(method)}
    return GetMessageClass(method.input_type)(**fields)


def names_a_session(method: MethodDescriptor) -> bool:
    """Return whether a request of the method names a session."""
    return "session_id" in _fields(method)


def names_a_user(method: MethodDescriptor) -> bool:
    """Return whether a request of the method is about a user rather than a user's session."""
    return "user_id" in _fields(method) and not names_a_session(method)


def send(
    channel: grpc.Channel, method: MethodDescriptor, request: ProtobufMessage
) -> list[ProtobufMessage]:
    """Make a call, read it to its end, and return its responses."""
    make: Callable[..., Any] = (
        channel.unary_stream if method.server_streaming else channel.unary_unary
    )
    call = make(
        path(method),
        request_serializer=type(request).SerializeToString,
        response_deserializer=GetMessageClass(method.output_type).FromString,
    )
    return list(call(request)) if method.server_streaming else [call(request)]


def _fields(method: MethodDescriptor) -> set[str]:
    return set(method.input_type.fields_by_name)
