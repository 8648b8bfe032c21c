"""Maps domain errors to gRPC statuses with `google.rpc` details: the only place that does."""

from __future__ import annotations

import logging
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from server import errors

# Strings, since at run time these classes are not generic.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_LOGGER = logging.getLogger(__name__)

ERROR_DOMAIN = "palaver"

_OUR_METHODS = "/palaver."

_RETRY_INFO = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1))

# Clients accept 8 KiB of trailing metadata by default, and the details travel there in
# base64: what is longer they would report as an error of their own.
_MAX_DETAIL_BYTES = 2048


class ErrorMappingInterceptor(grpc.aio.ServerInterceptor):
    """Ends a call that raises with the status that the error stands for."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wraps the handler of a call."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(_OUR_METHODS):
            return handler  # health and reflection have errors of their own
        # The request is decoded in here, so that bytes that are no message are mapped too.
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(
                _mapped_call(handler), response_serializer=handler.response_serializer
            )
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(
                _mapped_stream(handler), response_serializer=handler.response_serializer
            )
        raise NotImplementedError(handler_call_details.method)


def _mapped_call(handler: Handler) -> Callable[[bytes, Context], Any]:
    call: Any = handler.unary_unary

    async def mapped(request: bytes, context: Context) -> Any:
        async with _mapped_errors(context):
            return await call(_decoded(handler, request), context)

    return mapped


def _mapped_stream(handler: Handler) -> Callable[[bytes, Context], Any]:
    stream: Any = handler.unary_stream

    async def mapped(request: bytes, context: Context) -> AsyncIterator[Any]:
        async with (
            _mapped_errors(context),
            aclosing(stream(_decoded(handler, request), context)) as responses,
        ):
            async for response in responses:
                yield response

    return mapped


@asynccontextmanager
async def _mapped_errors(context: Context) -> AsyncIterator[None]:
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except Exception as error:  # noqa: BLE001 - the boundary
        await context.abort_with_status(rpc_status.to_status(status_of(error)))


def _decoded(handler: Handler, request: bytes) -> Any:
    deserialize: Any = handler.request_deserializer
    try:
        return deserialize(request)
    except DecodeError as error:
        description = "is not a message of its type, or nests deeper than metadata may"
        raise errors.InvalidRequest(errors.FieldViolation("request", description)) from error


def status_of(error: Exception) -> Status:
    """Gives the status that an error stands for; a bug is logged under its incident id."""
    match error:
        case errors.InvalidRequest():
            code, detail = code_pb2.INVALID_ARGUMENT, _bad_request(error)
        case errors.NotFound():
            code, detail = code_pb2.NOT_FOUND, _resource_info(error)
        case errors.AlreadyExists():
            code, detail = code_pb2.ALREADY_EXISTS, _resource_info(error)
        case errors.StaleLastSequence():
            code, detail = code_pb2.ABORTED, _stale_last_sequence(error)
        case errors.DatabaseUnavailable():
            code, detail = code_pb2.UNAVAILABLE, _RETRY_INFO
        case errors.NoConnectionInTime():
            code, detail = code_pb2.RESOURCE_EXHAUSTED, _RETRY_INFO
        case _:
            return _internal(error)
    return _status(code, str(error), detail)


def _status(code: int, message: str, detail: Message) -> Status:
    packed = AnyMessage()
    packed.Pack(detail)
    return Status(code=code, message=_shortened(message), details=[packed])


def _shortened(text: str) -> str:
    return text if len(text) <= 500 else text[:500] + "…"


def _bad_request(error: errors.InvalidRequest) -> error_details_pb2.BadRequest:
    detail = error_details_pb2.BadRequest()
    for count, violation in enumerate(error.violations):
        detail.field_violations.add(field=violation.field, description=violation.description)
        if detail.ByteSize() > _MAX_DETAIL_BYTES:
            left_out = len(error.violations) - count
            detail.field_violations[-1].field = violation.field.partition("[")[0]
            detail.field_violations[-1].description = f"{left_out:,} more violations"
            break
    return detail


def _resource_info(
    error: errors.NotFound | errors.AlreadyExists,
) -> error_details_pb2.ResourceInfo:
    return error_details_pb2.ResourceInfo(
        resource_type=f"palaver.v1.{error.resource_type}",
        resource_name=error.resource_name,
        description=str(error),
    )


def _stale_last_sequence(error: errors.StaleLastSequence) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(
        reason="STALE_LAST_SEQUENCE",
        domain=ERROR_DOMAIN,
        metadata={
            "expected_last_sequence": str(error.expected),
            "last_sequence": str(error.actual),
        },
    )


def _internal(error: Exception) -> Status:
    incident_id = str(uuid.uuid4())
    # Not the error's text, nor its causes': a driver quotes contents in them.
    frames = "".join(traceback.format_tb(error.__traceback__))
    _LOGGER.error(
        "incident %s: %s %s\n%s",
        incident_id,
        type(error).__name__,
        getattr(error, "sqlstate", ""),
        frames,
    )
    detail = error_details_pb2.ErrorInfo(
        reason="INTERNAL", domain=ERROR_DOMAIN, metadata={"incident_id": incident_id}
    )
    return _status(code_pb2.INTERNAL, f"internal error, incident {incident_id}", detail)
