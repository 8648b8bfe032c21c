"""The protocol of interceptors: hooks that run before, during and after a call.

An interceptor is asked once per method for a function that starts its part of a call. That
function may refuse the call by raising an error, wait, and return hooks for the rest of the call.
Hooks instead of nested coroutines: a call that waits for the database is resumed directly, not
through every interceptor.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor

# A string: at run time this class is not generic.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


class IncomingCall:
    """A call that starts.

    Attributes:
        context: gRPC's context of the call.
        request: The request; empty until `RequestBytes` has read it.
    """

    __slots__ = ("context", "request")

    def __init__(self, context: Context) -> None:
        self.context = context
        self.request = b""

    def take_request(self) -> bytes:
        """Return the request, and keep no reference to it."""
        request, self.request = self.request, b""
        return request


class CallHooks:
    """The hooks of an interceptor in one call. By default they do nothing.

    Attributes:
        sees_responses: Whether `before_send` and `after_send` are run.
    """

    __slots__ = ()

    sees_responses = False

    def before_send(self, response: bytes) -> None:
        """Run before a response is sent."""

    def after_send(self) -> None:
        """Run after a response of a stream was sent."""

    def end(self, error: BaseException | None) -> BaseException | None:
        """Run when the handler ends; return the error that the call ends with, None for success."""
        return error

    def close(self) -> None:
        """Run when the call is over: its response or status was sent, or gRPC has given up."""


# Starts an interceptor's part of a call.
StartCall: TypeAlias = Callable[[IncomingCall], CallHooks | Awaitable[CallHooks | None] | None]


class Interceptor(Protocol):
    """One concern of every call."""

    def intercept(self, method: MethodDescriptor) -> StartCall | None:
        """Return the function that starts a call of a method; None leaves the method alone."""
        ...


def full_name(method: MethodDescriptor) -> str:
    """Return the name of a method in requests, such as `/palaver.v1.UserService/GetUser`."""
    return f"/{method.containing_service.full_name}/{method.name}"
