"""Bytes that are no message of a method's type: refused by all methods in the same way."""

import logging
from collections.abc import Iterator

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from tests.support import contract
from tests.support.client import Client, refused

NO_MESSAGE = b"\xff"

OF_GRPC = {
    "/grpc.health.v1.Health/Check": "unary_unary",
    "/grpc.health.v1.Health/List": "unary_unary",
    "/grpc.health.v1.Health/Watch": "unary_stream",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "stream_stream",
}
OURS = {
    contract.path(method): "unary_stream" if method.server_streaming else "unary_unary"
    for method in contract.METHODS
}


def send(channel: grpc.Channel, method: str, kind: str, request: bytes) -> None:
    """Makes a call to its end."""
    call = getattr(channel, kind)(method)
    response = call(iter([request]) if kind == "stream_stream" else request, timeout=20)
    if isinstance(response, Iterator):
        list(response)


@pytest.mark.parametrize(("method", "kind"), (OF_GRPC | OURS).items())
def test_it_is_an_invalid_argument_and_no_bug(
    palaver: Client, method: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT) as refusal:
        send(palaver.channel, method, kind, NO_MESSAGE)

    (violation,) = refusal.detail(BadRequest).field_violations
    assert violation.field == "request"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
