"""The methods of a server, each wrapped once, when its service is added."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import grpc

from palaver_server.interceptors.chain import Handler

# A string: at run time Handler is one too.
FoundHandler: TypeAlias = "Handler | None"


class Methods(grpc.GenericRpcHandler):
    """Gives gRPC the handlers of the services that were added to it.

    The stubs' `add_..._to_server` take it for a server. gRPC's own interceptors it asks anew at
    each call; and of each method that is registered with it, it awaits the next call by
    itself, which at every call is work for every method that there is.

    Args:
        wrap: Makes what a method's handler is to be, from its full name, such as
            `/palaver.v1.SessionService/GetSession`, and the handler that was added.
    """

    def __init__(self, wrap: Callable[[str, Handler], Handler]) -> None:
        self._wrap = wrap
        self._handlers: dict[str, Handler] = {}

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Does nothing: the stubs give the same handlers by their names too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Adds the methods of a service."""
        for name, handler in handlers.items():
            method = f"/{service}/{name}"
            self._handlers[method] = self._wrap(method, handler)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> FoundHandler:
        """Gives the handler of a call; None if there is no such method."""
        return self._handlers.get(handler_call_details.method)
