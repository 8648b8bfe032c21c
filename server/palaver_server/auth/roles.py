"""Roles, and the role that each method requires."""

from enum import IntEnum
from types import MappingProxyType


class Role(IntEnum):
    """The role of a caller; each role includes those above it."""

    READER = 1
    WRITER = 2
    ADMIN = 3


# The minimum role that may call a method. Methods not listed are denied.
POLICY = MappingProxyType(
    {
        "/palaver.v1.SessionService/AddSession": Role.WRITER,
        "/palaver.v1.SessionService/UpdateSession": Role.WRITER,
        "/palaver.v1.SessionService/GetSession": Role.READER,
        "/palaver.v1.SessionService/DeleteSession": Role.WRITER,
        "/palaver.v1.SessionService/ListSessions": Role.READER,
        "/palaver.v1.SessionService/ListAllSessions": Role.READER,
        "/palaver.v1.SessionService/CountSessions": Role.READER,
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


def reads_only(method: str) -> bool:
    """Return whether a method changes nothing: those for readers."""
    return POLICY.get(method) is Role.READER
