"""An RPC of the contract: its messages, on which errors it may run again, and how it resumes."""

import json
import os
import time
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, Generic, TypeVar
from uuid import UUID

import grpc
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from palaver.client.conversion import decode, encode
from palaver.v1 import (
    admin_service_pb2,
    memory_service_pb2,
    session_service_pb2,
    user_service_pb2,
)

ResultT_co = TypeVar("ResultT_co", covariant=True)

# The server refuses larger requests: 16 MiB and 1,000 messages. A message may have 1 MiB.
_MAX_PART_BYTES = 8 * 1024 * 1024
_MAX_PART_MESSAGES = 1000

_FILES = (admin_service_pb2, memory_service_pb2, session_service_pb2, user_service_pb2)
_SERVICES = {
    service.full_name: service
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
}


# The service config that all languages share.
_SHARED_CONFIG: dict[str, Any] = json.loads(
    resources.files(__package__).joinpath("service_config.json").read_text("utf-8")
)

_RETRYABLE_CODES = {
    f"/{name['service']}/{name['method']}": {
        grpc.StatusCode[code] for code in entry["retryPolicy"]["retryableStatusCodes"]
    }
    for entry in _SHARED_CONFIG["methodConfig"]
    for name in entry["name"]
}

# Balancing and health checks. Deadlines and retries of calls are the client's own (attempts.py):
# gRPC retries at most four times, and not at all while many calls fail.
SERVICE_CONFIG = {
    name: value
    for name, value in _SHARED_CONFIG.items()
    if name in {"loadBalancingConfig", "healthCheckConfig"}
}


class Rpc(Generic[ResultT_co]):
    """An RPC.

    Args:
        service: The full name of the service.
        name: The name of the RPC.
        result: The dataclass of a response.
    """

    def __init__(self, service: str, name: str, result: type[ResultT_co]) -> None:
        method = _SERVICES[service].methods_by_name[name]
        self.name = name
        self.path = f"/{service}/{name}"
        self._request = GetMessageClass(method.input_type)
        self._response = GetMessageClass(method.output_type)
        self._result = result

    def request(self, fields: Mapping[str, Any]) -> Message:
        """Return the request with these fields; messages to add get IDs."""
        request = self._request()
        encode(request, fields)
        if self.name in {"AddMemory", "AddMemoryStream"}:
            for message in request.messages:  # type: ignore[attr-defined]
                message.message_id = message.message_id or new_message_id()
        return request

    def requests(self, fields: Mapping[str, Any]) -> Iterator[Message]:
        """Yield the requests of a call that takes a stream: all fields first, then messages."""
        request = self.request(fields)
        messages = list(request.messages)  # type: ignore[attr-defined]
        request.ClearField("messages")
        size = 0
        for message in messages:
            size += message.ByteSize()
            part = request.messages  # type: ignore[attr-defined]
            if part and (size > _MAX_PART_BYTES or len(part) == _MAX_PART_MESSAGES):
                yield request
                request, size = self._request(), message.ByteSize()
            request.messages.add().CopyFrom(message)  # type: ignore[attr-defined]
        yield request

    def serialize(self, request: Message) -> bytes:
        """Encode a request."""
        return request.SerializeToString()

    def parse(self, response: bytes) -> Message:
        """Decode a response."""
        return self._response.FromString(response)

    def result(self, response: Message) -> ResultT_co:
        """Return a response as its dataclass."""
        return decode(response, self._result)

    def may_retry(self, code: grpc.StatusCode, request: Message) -> bool:
        """Return whether a call that ended with a code may run again.

        The service config says so, except that messages to add always have IDs here: the retry
        changes nothing. A lost answer to a call with conditions is not retried, as the retry would
        be refused for the change that the first attempt made.
        """
        if self.name in {"AddMemory", "AddMemoryStream"} and code is grpc.StatusCode.UNAVAILABLE:
            return not any(field.name.startswith("expected_") for field, _ in request.ListFields())
        return code in _RETRYABLE_CODES[self.path]


def resume_after(request: Any, response: Any) -> bool:
    """Let a request continue a listing after a page or chunk; return whether there is more."""
    if token := getattr(response, "next_page_token", ""):
        request.page_token = token
        return True
    if cursor := getattr(response, "next_cursor", 0):
        request.cursor = cursor
        return True
    return False


def new_message_id() -> str:
    """Return a UUIDv7, as the server assigns: IDs made later sort later."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | (7 << 76)
    value = value & ~(0b11 << 62) | (0b10 << 62)
    return str(UUID(int=value))
