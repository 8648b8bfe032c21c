"""Reflection: the whole contract can be read from the server."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default as OwnPool
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from palaver_server.bootstrap.services import SERVICES
from tests.conftest import StartServer
from tests.support.client import Client
from tests.support.watching import SERVING, health_of


def test_reflection_follows_its_setting(start_server: StartServer) -> None:
    client = start_server(reflection=False)

    with pytest.raises(grpc.RpcError) as raised:
        ProtoReflectionDescriptorDatabase(client.channel).get_services()
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert health_of(client) == SERVING


@pytest.fixture
def reflection(palaver: Client) -> ProtoReflectionDescriptorDatabase:
    """The descriptors that the server sends."""
    return ProtoReflectionDescriptorDatabase(palaver.channel)


OF_GRPC = (
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)


def test_reflection_lists_every_service(reflection: ProtoReflectionDescriptorDatabase) -> None:
    assert set(reflection.get_services()) == {*SERVICES, *OF_GRPC}


def test_reflection_of_both_versions_describes_every_service_and_method(palaver: Client) -> None:
    services = [OwnPool().FindServiceByName(name) for name in (*SERVICES, *OF_GRPC)]
    symbols = {service.full_name: service.file.name for service in services}
    symbols |= {method.full_name: s.file.name for s in services for method in s.methods}
    for version in ("v1", "v1alpha"):
        request = GetMessageClass(
            OwnPool().FindMessageTypeByName(f"grpc.reflection.{version}.ServerReflectionRequest")
        )
        response = GetMessageClass(
            OwnPool().FindMessageTypeByName(f"grpc.reflection.{version}.ServerReflectionResponse")
        )
        ask: Any = palaver.channel.stream_stream(
            f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        answers = list(ask(request(file_containing_symbol=symbol) for symbol in symbols))

        files = [answer.file_descriptor_response.file_descriptor_proto for answer in answers]
        names = [FileDescriptorProto.FromString(file[0]).name if file else None for file in files]
        assert names == list(symbols.values()), version


def files_behind(file: FileDescriptor) -> Iterator[FileDescriptor]:
    """Yield a file, and all files that it imports."""
    yield file
    for dependency in file.dependencies:
        yield from files_behind(dependency)


def test_reflection_describes_every_file(
    reflection: ProtoReflectionDescriptorDatabase,
) -> None:
    pool, own = DescriptorPool(reflection), OwnPool()

    for name in SERVICES:
        described, expected = pool.FindServiceByName(name), own.FindServiceByName(name)
        assert set(described.methods_by_name) == set(expected.methods_by_name)
        files = {file.name: file.serialized_pb for file in files_behind(described.file)}
        assert files == {file.name: file.serialized_pb for file in files_behind(expected.file)}

    metadata = pool.FindMessageTypeByName("palaver.v1.Session").fields_by_name["metadata"]
    assert metadata.message_type is pool.FindMessageTypeByName("google.protobuf.Struct")


# The codes with which an existing method answers an empty request.
CALLED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def code_of_empty_request(call: Callable[[bytes], Iterable[object]]) -> grpc.StatusCode:
    """Make a call with an empty request, and return its code."""
    try:
        list(call(b""))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_reflection_methods_are_callable(
    reflection: ProtoReflectionDescriptorDatabase, palaver: Client
) -> None:
    pool = DescriptorPool(reflection)
    methods = [m for service in SERVICES for m in pool.FindServiceByName(service).methods]

    for method in methods:
        path = f"/{method.containing_service.full_name}/{method.name}"
        kind = "unary_stream" if method.server_streaming else "unary_unary"
        code = code_of_empty_request(getattr(palaver.channel, kind)(path))
        assert code in CALLED, path
