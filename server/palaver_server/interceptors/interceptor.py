"""The protocol of interceptors: hooks that run before, during and after a call.

An interceptor is asked once per method for a function that starts its part of a call. That
function may refuse the call by raising an error, wait, and return hooks for the rest of the call.
Hooks instead of nested coroutines: a call that waits for the database is resumed directly, not
through every interceptor.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor

if TYPE_CHECKING:
    from palaver_server.interceptors.running_calls import RunningCall

# A string: at run time this class is not generic.
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


@dataclass(slots=True)
class IncomingCall:
    """A call, from its start.

    Attributes:
        context: gRPC's context of the call.
        running: The call as `RunningCalls` has started it.
        request: The request; empty until `RequestBytes` has read it.
        responses: Number of responses so far.
        response_bytes: Size of all responses so far.
    """

    context: Context
    running: "RunningCall" = field(init=False)
    request: bytes = b""
    responses: int = 0
    response_bytes: int = 0


class CallHooks:
    """The hooks of an interceptor in a call. Those that a class does not define are not run.

    Attributes:
        sees_responses: Whether the class defines `before_send`.
        sees_end: Whether it defines `end`.
        sees_close: Whether it defines `close`.
    """

    __slots__ = ()

    sees_responses: ClassVar[bool]
    sees_end: ClassVar[bool]
    sees_close: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        cls.sees_responses = cls.before_send is not CallHooks.before_send
        cls.sees_end = cls.end is not CallHooks.end
        cls.sees_close = cls.close is not CallHooks.close

    def before_send(self, response: bytes) -> None:
        """Run before a response is sent."""

    def after_send(self) -> None:
        """Run after a response of a stream was sent."""

    def fail(self, error: BaseException) -> BaseException:
        """Run when the call fails; return the error that it ends with."""
        return error

    def end(self, error: BaseException | None) -> None:
        """Run when the handler ends; the call then ends with this error, or with success."""

    def close(self) -> None:
        """Run when the call is over: its response or status was sent, or gRPC has given up."""


# Starts an interceptor's part of a call.
StartCall: TypeAlias = Callable[[IncomingCall], CallHooks | Awaitable[CallHooks | None] | None]


class Interceptor(Protocol):
    """One concern of every call."""

    def intercept(self, method: MethodDescriptor) -> StartCall | CallHooks | None:
        """Return the function that starts a call of a method.

        Or the hooks, if they are the same for all calls; None leaves the method alone.
        """
        ...


def full_name(method: MethodDescriptor) -> str:
    """Return the name of a method in requests, such as `/palaver.v1.UserService/GetUser`."""
    return f"/{method.containing_service.full_name}/{method.name}"
