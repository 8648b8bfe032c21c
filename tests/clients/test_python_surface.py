"""The surface of the Python client: both flavours have every RPC, and its fields."""

import inspect
import re
from typing import Any

import pytest

from palaver.client import async_calls, calls
from palaver.v1 import (
    admin_service_pb2,
    memory_service_pb2,
    session_service_pb2,
    user_service_pb2,
)

SURFACES = {
    "SessionService": (calls.Memory, async_calls.AsyncMemory),
    "MemoryService": (calls.Memory, async_calls.AsyncMemory),
    "UserService": (calls.Users, async_calls.AsyncUsers),
    "AdminService": (calls.Admin, async_calls.AsyncAdmin),
}
FILES = (admin_service_pb2, memory_service_pb2, session_service_pb2, user_service_pb2)
METHODS = [
    pytest.param(service.name, method, id=method.name)
    for file in FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize(("service", "method"), METHODS)
def test_surface_has_every_rpc_under_its_name(service: str, method: Any) -> None:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", method.name).lower()
    fields = [field.name for field in method.input_type.fields]

    for flavour in SURFACES[service]:
        call = getattr(flavour, name)
        parameters = inspect.signature(call).parameters
        assert set(parameters) == {"self", *fields, "timeout"}
        assert call.__doc__
        is_coroutine = flavour.__name__.startswith("Async") and not method.server_streaming
        assert inspect.iscoroutinefunction(call) == is_coroutine
