"""Requests that cannot be decoded: refused by all methods in the same way."""

import logging
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from tests.support import contract
from tests.support.client import Client, refused


def test_malformed_utf8_is_an_invalid_argument(palaver: Client) -> None:
    for method in ("SessionService/GetSession", "MemoryService/AddMemory"):
        call: Any = palaver.channel.unary_unary(f"/palaver.v1.{method}")

        with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
            call(b"\x0a\x01\xff")  # a session_id that is not UTF-8

        assert refusal.detail(BadRequest).field_violations


def _field(number: int, content: bytes) -> bytes:
    """Encode a field of protobuf; the library refuses to nest so deep."""
    size = len(content)
    return bytes([number << 3 | 2, size & 0x7F | 0x80, size >> 7]) + content


def test_malformed_metadata_too_deep_to_decode_is_refused(palaver: Client) -> None:
    call: Any = palaver.channel.unary_unary("/palaver.v1.SessionService/AddSession")
    metadata = b""
    for _ in range(100):
        value = _field(5, metadata)  # struct_value
        metadata = _field(1, _field(1, b"a") + _field(2, value))  # fields["a"]

    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        call(_field(1, b"s") + _field(3, metadata))

    assert refusal.detail(BadRequest).field_violations


NO_MESSAGE = b"\xff"

OF_GRPC = {
    "/grpc.health.v1.Health/Check": "unary_unary",
    "/grpc.health.v1.Health/List": "unary_unary",
    "/grpc.health.v1.Health/Watch": "unary_stream",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": "stream_stream",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "stream_stream",
}
OURS = {
    contract.path(method): "unary_stream" if method.server_streaming else "unary_unary"
    for method in contract.METHODS
}


def send(channel: grpc.Channel, method: str, kind: str, request: bytes) -> None:
    """Make a call and read its responses to the end."""
    call = getattr(channel, kind)(method)
    response = call(iter([request]) if kind == "stream_stream" else request, timeout=20)
    if isinstance(response, Iterator):
        list(response)


@pytest.mark.parametrize(("method", "kind"), (OF_GRPC | OURS).items())
def test_malformed_bytes_are_an_invalid_argument_of_every_method(
    palaver: Client, method: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        send(palaver.channel, method, kind, NO_MESSAGE)

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "request"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
