"""Lets a caller do what its role may."""

from collections.abc import AsyncGenerator, Awaitable
from types import MappingProxyType

from palaver_server.auth.principal import PRINCIPAL, Role
from palaver_server.errors import PermissionDenied
from palaver_server.interceptors.chain import Context, StreamCall, UnaryCall

# The least role that may call a method. What is not here nobody may call.
POLICY = MappingProxyType(
    {
        "/palaver.v1.SessionService/AddSession": Role.WRITER,
        "/palaver.v1.SessionService/UpdateSession": Role.WRITER,
        "/palaver.v1.SessionService/GetSession": Role.READER,
        "/palaver.v1.SessionService/DeleteSession": Role.WRITER,
        "/palaver.v1.SessionService/ListSessions": Role.READER,
        "/palaver.v1.SessionService/ListAllSessions": Role.READER,
        "/palaver.v1.UserService/AddUser": Role.WRITER,
        "/palaver.v1.UserService/GetUser": Role.READER,
        "/palaver.v1.UserService/UpdateUser": Role.WRITER,
        "/palaver.v1.UserService/DeleteUser": Role.WRITER,
        "/palaver.v1.UserService/ListUsers": Role.READER,
        "/palaver.v1.UserService/ListAllUsers": Role.READER,
        "/palaver.v1.MemoryService/AddMemory": Role.WRITER,
        "/palaver.v1.MemoryService/GetMemory": Role.READER,
        "/palaver.v1.MemoryService/DeleteMemory": Role.WRITER,
        "/palaver.v1.MemoryService/ListMessages": Role.READER,
        "/palaver.v1.MemoryService/StreamMessages": Role.READER,
        "/palaver.v1.MemoryService/GetMessage": Role.READER,
        "/palaver.v1.MemoryService/UpdateMessage": Role.WRITER,
        "/palaver.v1.MemoryService/DeleteMessages": Role.WRITER,
        "/palaver.v1.MemoryService/SearchMemory": Role.READER,
        "/palaver.v1.AdminService/PurgeDeleted": Role.ADMIN,
        "/palaver.v1.AdminService/Reindex": Role.ADMIN,
    }
)


class Authorization:
    """Refuses calls that the policy does not allow. Stands inside of Authentication."""

    def unary(self, method: str, call: UnaryCall) -> UnaryCall:
        """Wraps a method with one response."""

        def authorized(request: bytes, context: Context) -> Awaitable[bytes]:
            _check(method)
            return call(request, context)

        return authorized

    def stream(self, method: str, call: StreamCall) -> StreamCall:
        """Wraps a method with a stream of responses."""

        def authorized(request: bytes, context: Context) -> AsyncGenerator[bytes, None]:
            _check(method)
            return call(request, context)

        return authorized


def _check(method: str) -> None:
    principal, least = PRINCIPAL.get(), POLICY.get(method)
    if principal is None or least is None:
        raise PermissionDenied("NOT_ALLOWED", "nobody may call this method")
    if principal.role < least:
        raise PermissionDenied(
            "ROLE_TOO_LOW",
            f"this needs the role {least.name.lower()}, and the credential's"
            f" is {principal.role.name.lower()}",
        )
