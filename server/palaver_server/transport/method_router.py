"""The methods of a server by their names."""

from collections.abc import Callable

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from palaver_server.interceptors.chain import GrpcHandler, Handler


class MethodRouter(grpc.GenericRpcHandler):
    """The handlers of all methods, by name.

    It stands in for the generated `add_..._to_server` functions: servicers may return encoded
    responses, for which the generated base classes have no type, and each method is wrapped
    once. gRPC's own interceptors are composed again for each call, and each method that is
    registered with gRPC adds work to every call of any method.

    Args:
        wrap: Makes gRPC's handler of a method from the servicer's.
    """

    def __init__(self, wrap: Callable[[MethodDescriptor, Handler], GrpcHandler]) -> None:
        self._wrap = wrap
        self._handlers: dict[str, GrpcHandler] = {}

    def add_service(
        self, service: ServiceDescriptor, servicer: object, *, name: str | None = None
    ) -> None:
        """Add a service, whose servicer has a method for each RPC.

        Args:
            service: The service.
            servicer: Its servicer.
            name: The service's name in requests, if it is not the descriptor's.

        Raises:
            AttributeError: The servicer lacks a method.
        """
        for method in service.methods:
            handler = self._wrap(method, getattr(servicer, method.name))
            self._handlers[f"/{name or service.full_name}/{method.name}"] = handler

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "GrpcHandler | None":
        """Return the handler of a call; None if the method does not exist."""
        return self._handlers.get(handler_call_details.method)
