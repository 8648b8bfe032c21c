"""The errors of calls: one class for each situation that a program may act on."""

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import (
    BadRequest,
    ErrorInfo,
    PreconditionFailure,
    ResourceInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

DetailT = TypeVar("DetailT", bound=Message)


class PalaverError(Exception):
    """A call failed. Its cause is the error of gRPC.

    Attributes:
        code: The status code.
        request_id: The ID under which the server's log has the call; None if no server answered.
        retry_delay: Seconds to wait before a retry, if the server says so.
    """

    code = grpc.StatusCode.UNKNOWN
    request_id: str | None = None
    retry_delay: float = 0


class Violation(NamedTuple):
    """A field that is not valid, such as `messages[0].role`, and why."""

    field: str
    description: str


class InvalidArgument(PalaverError):
    """Fields of the request are invalid; nothing was done.

    Attributes:
        violations: The invalid fields.
    """

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, message: str, violations: list[Violation]) -> None:
        super().__init__(message)
        self.violations = violations


class NotFound(PalaverError):
    """The session, message or user does not exist.

    Attributes:
        resource_type: `Session`, `Message` or `User`.
        resource_name: Its ID.
    """

    code = grpc.StatusCode.NOT_FOUND

    def __init__(self, message: str, resource_type: str, resource_name: str) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.resource_name = resource_name


class AlreadyExists(PalaverError):
    """The session or user exists.

    Attributes:
        resource_type: `Session` or `User`.
        resource_name: Its ID.
    """

    code = grpc.StatusCode.ALREADY_EXISTS

    def __init__(self, message: str, resource_type: str, resource_name: str) -> None:
        super().__init__(message)
        self.resource_type = resource_type
        self.resource_name = resource_name


class Aborted(PalaverError):
    """A condition of the request does not hold; nothing was written."""

    code = grpc.StatusCode.ABORTED


class StaleLastSequence(Aborted):
    """`expected_last_sequence` is not the session's.

    Attributes:
        expected: The value of the request.
        actual: The session's.
    """

    def __init__(self, message: str, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class StaleRevision(Aborted):
    """`expected_revision` is not that of the session, message or user.

    Attributes:
        expected: The value of the request.
        actual: That of the session, message or user.
    """

    def __init__(self, message: str, expected: int, actual: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual


class FailedPrecondition(PalaverError):
    """The server lacks what the call needs, such as an embedder."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ReadOnly(FailedPrecondition):
    """The call writes, and the server is configured to only read."""


class Unavailable(PalaverError):
    """The server or its database cannot be reached. A write may have taken effect."""

    code = grpc.StatusCode.UNAVAILABLE


class ResourceExhausted(PalaverError):
    """The server is at a limit; nothing was written."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class DeadlineExceeded(PalaverError):
    """The call took too long. A write may have taken effect."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(PalaverError):
    """The call has no credential, or an invalid one."""

    code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(PalaverError):
    """The credential does not allow the call.

    Attributes:
        reason: `ROLE_TOO_LOW`, `NO_ROLE` or `BOUND_TO_ANOTHER_USER`.
    """

    code = grpc.StatusCode.PERMISSION_DENIED

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Internal(PalaverError):
    """A bug of the server.

    Attributes:
        incident_id: The ID under which the server's log has the cause.
    """

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str, incident_id: str) -> None:
        super().__init__(message)
        self.incident_id = incident_id


class Failure:
    """The status of a failed call, and its details.

    Args:
        error: The error of gRPC, from a channel of either flavour.
    """

    def __init__(self, error: grpc.RpcError) -> None:
        self._call = cast("grpc.Call", error)  # or an AioRpcError, which has the same methods
        self._status = rpc_status.from_call(self._call) or Status()
        self.code = self._call.code()

    @property
    def message(self) -> str:
        """The code, and the text for people."""
        return f"{self.code.name}: {self._call.details()}"

    @property
    def is_resumable(self) -> bool:
        """Whether the server ended a stream and says how to resume it."""
        return bool({"next_cursor", "next_page_token"} & set(self.detail(ErrorInfo).metadata))

    @property
    def retry_delay(self) -> float:
        """Seconds to wait before a retry, if the server says so."""
        delay: float = self.detail(RetryInfo).retry_delay.ToTimedelta().total_seconds()
        return delay

    def detail(self, kind: Callable[[], DetailT]) -> DetailT:
        """Return the detail of a type; an empty one if there is none."""
        detail = kind()
        for packed in self._status.details:
            if packed.Unpack(detail):
                break
        return detail

    def error(self) -> PalaverError:
        """Return the typed error."""
        error = _CONSTRUCTORS.get(self.code, _other)(self)
        trailing = dict(self._call.trailing_metadata() or ())
        error.request_id = str(trailing["x-request-id"]) if "x-request-id" in trailing else None
        error.retry_delay = self.retry_delay
        return error


def _invalid_argument(failure: Failure) -> PalaverError:
    violations = failure.detail(BadRequest).field_violations
    return InvalidArgument(
        failure.message, [Violation(each.field, each.description) for each in violations]
    )


def _not_found(failure: Failure) -> PalaverError:
    return NotFound(failure.message, *_resource(failure))


def _already_exists(failure: Failure) -> PalaverError:
    return AlreadyExists(failure.message, *_resource(failure))


def _resource(failure: Failure) -> tuple[str, str]:
    info = failure.detail(ResourceInfo)
    return info.resource_type.rpartition(".")[2], info.resource_name


def _aborted(failure: Failure) -> PalaverError:
    info = failure.detail(ErrorInfo)
    values = info.metadata
    match info.reason:
        case "STALE_LAST_SEQUENCE":
            expected, actual = values["expected_last_sequence"], values["last_sequence"]
            return StaleLastSequence(failure.message, int(expected), int(actual))
        case "STALE_REVISION":
            expected, actual = values["expected_revision"], values["revision"]
            return StaleRevision(failure.message, int(expected), int(actual))
    return Aborted(failure.message)


def _failed_precondition(failure: Failure) -> PalaverError:
    kinds = {each.type for each in failure.detail(PreconditionFailure).violations}
    return (ReadOnly if "READ_ONLY" in kinds else FailedPrecondition)(failure.message)


def _permission_denied(failure: Failure) -> PalaverError:
    return PermissionDenied(failure.message, failure.detail(ErrorInfo).reason)


def _internal(failure: Failure) -> PalaverError:
    return Internal(failure.message, failure.detail(ErrorInfo).metadata.get("incident_id", ""))


def _other(failure: Failure) -> PalaverError:
    kinds = (Unavailable, ResourceExhausted, DeadlineExceeded, Unauthenticated)
    kind = next((kind for kind in kinds if kind.code is failure.code), PalaverError)
    error = kind(failure.message)
    error.code = failure.code
    return error


_CONSTRUCTORS: dict[grpc.StatusCode, Callable[[Failure], PalaverError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: _invalid_argument,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.ALREADY_EXISTS: _already_exists,
    grpc.StatusCode.ABORTED: _aborted,
    grpc.StatusCode.FAILED_PRECONDITION: _failed_precondition,
    grpc.StatusCode.PERMISSION_DENIED: _permission_denied,
    grpc.StatusCode.INTERNAL: _internal,
}
