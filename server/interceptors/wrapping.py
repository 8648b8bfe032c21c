"""Wraps the methods of some services, each once."""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

# Strings, since at run time these classes are not generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
FoundHandler: TypeAlias = "Handler | None"


class Wrapping(grpc.aio.ServerInterceptor, ABC):
    """Wraps the handlers of methods.

    gRPC asks an interceptor anew at each call. Here a method's wrapper is made at its first one.

    Args:
        starts: What the methods that it wraps begin with, such as `/palaver.`.
    """

    def __init__(self, *starts: str) -> None:
        self._starts = starts
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[FoundHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> FoundHandler:
        """Gives the handler of a call, wrapped if it is of such a method."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(self._starts):
            return handler
        self._wrapped[method] = wrapped = self._wrap(method, handler)
        return wrapped

    @abstractmethod
    def _wrap(self, method: str, handler: Handler) -> Handler:
        """Makes the wrapper of a method."""
