"""The servicer of `grpc.reflection.v1.ServerReflection` and of its predecessor, `v1alpha`.

grpcio-reflection has v1alpha only. The messages of both are the same on the wire, so one servicer
serves both.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default as DescriptorPool
from grpc_reflection.v1alpha import reflection, reflection_pb2

# Any: the stubs of grpcio-reflection have another class for descriptors.
V1ALPHA: Any = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

V1_NAME = "grpc.reflection.v1.ServerReflection"


def _add_v1_to_pool() -> None:
    """Make the descriptors of v1 from those of v1alpha, so that v1 describes itself too."""
    file = FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    file.name = "grpc/reflection/v1/reflection.proto"
    file.package = "grpc.reflection.v1"
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = _of_v1(field.type_name)
    for method in file.service[0].method:
        method.input_type = _of_v1(method.input_type)
        method.output_type = _of_v1(method.output_type)
    DescriptorPool().AddSerializedFile(file.SerializeToString())


def _of_v1(name: str) -> str:
    return name.replace(".v1alpha.", ".v1.")


class ReflectionService(reflection.aio.ReflectionServicer):
    """gRPC's servicer, which also finds methods by their names.

    Args:
        services: Full names of Palaver's and gRPC's other services.
    """

    def __init__(self, services: Iterable[str]) -> None:
        super().__init__((*services, V1_NAME, V1ALPHA.full_name))

    def _file_containing_symbol(self, request: Any, fully_qualified_name: str) -> Any:
        # Python's descriptor pool knows methods, but not as symbols.
        with suppress(KeyError):
            method = DescriptorPool().FindMethodByName(fully_qualified_name)
            fully_qualified_name = method.containing_service.full_name
        return super()._file_containing_symbol(  # type: ignore[misc]  # not in the stubs
            request, fully_qualified_name
        )


_add_v1_to_pool()
