"""Calls over a blocking channel."""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from palaver.client.attempts import Attempts
from palaver.client.connection import Authorization
from palaver.client.rpc import Rpc, resume_after

ResultT = TypeVar("ResultT")


class Caller:
    """Makes calls, repeats failed ones, and resumes streams. Usable by several threads.

    Args:
        channel: The channel.
        authorization: The credential of each call.
        timeout: Seconds that a unary call may take by default.
    """

    def __init__(self, channel: grpc.Channel, authorization: Authorization, timeout: float) -> None:
        self._channel = channel
        self._authorization = authorization
        self._timeout = timeout

    def unary(self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None) -> ResultT:
        """Make a call with one request and one response."""
        return rpc.result(self._unary(rpc, rpc.request(fields), timeout))

    def upload(
        self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None
    ) -> ResultT:
        """Make a call with a stream of requests."""
        requests = list(rpc.requests(fields))
        call = self._channel.stream_unary(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, requests[0], timeout, self._timeout)
        while True:
            try:
                return rpc.result(
                    call(iter(requests), metadata=self._authorization(), **attempts.options())
                )
            except grpc.RpcError as error:
                time.sleep(attempts.pause_after(error))

    def stream(
        self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None
    ) -> Iterator[ResultT]:
        """Yield the responses of a stream; a broken stream of a listing resumes after the last."""
        request = rpc.request(fields)
        start = self._channel.unary_stream(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, request, timeout, self._timeout, is_stream=True)
        while True:
            call = start(request, metadata=self._authorization(), **attempts.options())
            try:
                for response in call:
                    attempts.progress()
                    resume_after(request, response)
                    yield rpc.result(response)
                return
            except grpc.RpcError as error:
                pause = attempts.pause_after(error)
            finally:
                call.cancel()
            time.sleep(pause)

    def items(
        self, rpc: Rpc[Iterable[ResultT]], fields: Mapping[str, Any], timeout: float | None
    ) -> Iterator[ResultT]:
        """Yield the items of all pages of a listing."""
        request = rpc.request(fields)
        while True:
            page = self._unary(rpc, request, timeout)
            yield from rpc.result(page)
            if not resume_after(request, page):
                return

    def _unary(self, rpc: Rpc[Any], request: Message, timeout: float | None) -> Message:
        call = self._channel.unary_unary(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, request, timeout, self._timeout)
        while True:
            try:
                return call(request, metadata=self._authorization(), **attempts.options())
            except grpc.RpcError as error:
                time.sleep(attempts.pause_after(error))
