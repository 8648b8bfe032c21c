"""The one mapping of domain errors to gRPC statuses with `google.rpc` details."""

import logging
import traceback
import uuid
from typing import NoReturn

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from palaver_server import errors
from palaver_server.interceptors.interceptor import CallHooks, Context

_LOGGER = logging.getLogger(__name__)

ERROR_DOMAIN = "palaver"

_RETRY_INFO = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1))

# Details travel in the trailing metadata, in base64. Clients by default report an error of
# their own if it exceeds 8 KiB.
_MAX_DETAIL_BYTES = 2048
_MAX_MESSAGE_CHARACTERS = 500


class StatusError(Exception):
    """The status that a call ends with.

    Attributes:
        status: The code, the message and the trailing metadata with the details.
    """

    def __init__(self, status: grpc.Status) -> None:
        super().__init__(status.details)
        self.status = status


class ErrorMapping(CallHooks):
    """The interceptor that maps a call's error to its status. It has no state per call."""

    def intercept(self, _method: MethodDescriptor) -> CallHooks:
        """Return these hooks."""
        return self

    def fail(self, error: BaseException) -> BaseException:
        """Replace an error by its status. A cancellation passes: the client has left."""
        return status_error(error) if isinstance(error, Exception) else error


def status_error(error: Exception) -> StatusError:
    """Return the status of an error."""
    return StatusError(rpc_status.to_status(status_of(error)))


async def send_status(context: Context, error: StatusError) -> NoReturn:
    """End a call with a status."""
    status = error.status
    trailing_metadata = (*context.trailing_metadata(), *status.trailing_metadata)
    await context.abort(status.code, status.details, trailing_metadata)


def status_of(error: Exception) -> Status:  # noqa: C901 - a case for each kind of error
    """Return the status of an error; log an unexpected error under its incident ID."""
    match error:
        case errors.InvalidRequest():
            code, detail = code_pb2.INVALID_ARGUMENT, _bad_request(error)
        case errors.NotFound():
            code, detail = code_pb2.NOT_FOUND, _resource_info(error)
        case errors.AlreadyExists():
            code, detail = code_pb2.ALREADY_EXISTS, _resource_info(error)
        case errors.Stale():
            code, detail = code_pb2.ABORTED, _stale(error)
        case errors.Unauthenticated():
            code, detail = code_pb2.UNAUTHENTICATED, _reason("BAD_CREDENTIALS")
        case errors.PermissionDenied():
            code, detail = code_pb2.PERMISSION_DENIED, _reason(error.reason)
        case errors.SemanticSearchUnavailable() | errors.ServerReadOnly():
            code, detail = code_pb2.FAILED_PRECONDITION, _precondition_failure(error)
        case (
            errors.DatabaseUnavailable()
            | errors.EmbedderUnavailable()
            | errors.CredentialsExpired()
        ):
            code, detail = code_pb2.UNAVAILABLE, _RETRY_INFO
        case errors.NoConnectionInTime() | errors.TooManyCalls():
            code, detail = code_pb2.RESOURCE_EXHAUSTED, _RETRY_INFO
        case errors.NoRequest():
            # gRPC's own status for it: https://grpc.github.io/grpc/core/md_doc_statuscodes.html
            return _status(code_pb2.UNIMPLEMENTED, str(error))
        case errors.CallCancelled():
            return _cancelled(error)
        case _:
            return _internal(error)
    return _status(code, str(error), detail)


def _status(code: int, message: str, *details: Message) -> Status:
    status = Status(code=code, message=errors.shorten(message, _MAX_MESSAGE_CHARACTERS))
    for detail in details:
        status.details.add().Pack(detail)
    return status


def _bad_request(error: errors.InvalidRequest) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    for count, violation in enumerate(error.violations):
        detail.field_violations.add(field=violation.field, description=violation.description)
        if detail.ByteSize() > _MAX_DETAIL_BYTES:
            left_out = len(error.violations) - count
            detail.field_violations[-1].field = violation.field.partition("[")[0]
            at_least = "" if error.is_complete else "at least "
            detail.field_violations[-1].description = f"{at_least}{left_out:,} more violations"
            return detail
    if not error.is_complete:
        detail.field_violations.add(
            field="request", description="possibly more violations: further fields are not checked"
        )
    return detail


def _resource_info(
    error: errors.NotFound | errors.AlreadyExists,
) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(
        resource_type=f"palaver.v1.{error.resource_type}",
        resource_name=error.resource_name,
        description=str(error),
    )


def _stale(error: errors.Stale) -> error_details_pb2.ErrorInfo:
    values = {f"expected_{error.field}": str(error.expected), error.field: str(error.actual)}
    return _reason(f"STALE_{error.field.upper()}", **values)


def _reason(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain=ERROR_DOMAIN, metadata=metadata)


def _cancelled(error: errors.CallCancelled) -> Status:
    cursor = {"next_cursor": str(error.next_cursor)} if error.next_cursor else {}
    match error:
        case errors.ServerStopping():
            detail = _reason("SERVER_STOPPING", **cursor)
            return _status(code_pb2.UNAVAILABLE, str(error), _RETRY_INFO, detail)
        case errors.ReaderTooSlow():
            detail = _reason("READER_TOO_SLOW", **cursor)
        case _:
            detail = _reason("DEADLINE_EXCEEDED", **cursor)
    return _status(code_pb2.DEADLINE_EXCEEDED, str(error), detail)


def _precondition_failure(
    error: errors.SemanticSearchUnavailable | errors.ServerReadOnly,
) -> error_details_pb2.PreconditionFailure:
    kind = "READ_ONLY" if isinstance(error, errors.ServerReadOnly) else "SEMANTIC_SEARCH"
    detail = error_details_pb2.PreconditionFailure()
    detail.violations.add(type=kind, subject=ERROR_DOMAIN, description=str(error))
    return detail


def _internal(error: Exception) -> Status:
    incident_id = str(uuid.uuid4())
    # Log no text of the error or its causes: the driver quotes contents in it.
    frames = "".join(traceback.format_tb(error.__traceback__))
    _LOGGER.error(
        "internal error: incident %s: %s %s\n%s",
        incident_id,
        type(error).__name__,
        getattr(error, "sqlstate", ""),
        frames,
    )
    detail = _reason("INTERNAL", incident_id=incident_id)
    return _status(code_pb2.INTERNAL, f"internal error, incident {incident_id}", detail)
