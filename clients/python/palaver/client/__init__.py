"""The client of Palaver: `Client`, `AsyncClient`, the values of calls, and their errors."""

from palaver.client.client import AsyncClient, Client
from palaver.client.connection import Tls
from palaver.client.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PalaverError,
    PermissionDenied,
    ReadOnly,
    ResourceExhausted,
    StaleLastSequence,
    StaleRevision,
    Unauthenticated,
    Unavailable,
    Violation,
)
from palaver.client.types import (
    Memory,
    Message,
    MessageFilter,
    Session,
    SessionFilter,
    User,
)

__all__ = [
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Memory",
    "Message",
    "MessageFilter",
    "NotFound",
    "PalaverError",
    "PermissionDenied",
    "ReadOnly",
    "ResourceExhausted",
    "Session",
    "SessionFilter",
    "StaleLastSequence",
    "StaleRevision",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "User",
    "Violation",
]
