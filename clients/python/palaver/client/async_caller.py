"""Calls over a channel of asyncio."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeVar

import grpc.aio
from google.protobuf.message import Message

from palaver.client.attempts import Attempts
from palaver.client.connection import Authorization
from palaver.client.rpc import Rpc, resume_after

ResultT = TypeVar("ResultT")


class AsyncCaller:
    """Makes calls, repeats failed ones, and resumes streams, on the event loop of the channel.

    Args:
        channel: The channel.
        authorization: The credential of each call.
        timeout: Seconds that a unary call may take by default.
    """

    def __init__(
        self, channel: grpc.aio.Channel, authorization: Authorization, timeout: float
    ) -> None:
        self._channel: grpc.aio.Channel | None = channel
        self._authorization = authorization
        self._timeout = timeout

    async def close(self) -> None:
        """Close the channel; running calls are cancelled.

        gRPC closes the connections of asyncio's channels when nothing refers to them any more.
        """
        channel, self._channel = self._channel, None
        if channel:
            await channel.close()

    async def unary(
        self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None
    ) -> ResultT:
        """Make a call with one request and one response."""
        return rpc.result(await self._unary(rpc, rpc.request(fields), timeout))

    async def upload(
        self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None
    ) -> ResultT:
        """Make a call with a stream of requests."""
        requests = list(rpc.requests(fields))
        call = self._open_channel().stream_unary(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, requests[0], timeout, self._timeout)
        while True:
            try:
                return rpc.result(
                    await call(iter(requests), metadata=self._authorization(), **attempts.options())
                )
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.pause_after(error))

    async def stream(
        self, rpc: Rpc[ResultT], fields: Mapping[str, Any], timeout: float | None
    ) -> AsyncIterator[ResultT]:
        """Yield the responses of a stream; a broken stream of a listing resumes after the last."""
        request = rpc.request(fields)
        start = self._open_channel().unary_stream(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, request, timeout, self._timeout, is_stream=True)
        while True:
            call = start(request, metadata=self._authorization(), **attempts.options())
            try:
                async for response in call:
                    attempts.progress()
                    resume_after(request, response)
                    yield rpc.result(response)
                return
            except grpc.RpcError as error:
                pause = attempts.pause_after(error)
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    async def items(
        self, rpc: Rpc[Iterable[ResultT]], fields: Mapping[str, Any], timeout: float | None
    ) -> AsyncIterator[ResultT]:
        """Yield the items of all pages of a listing."""
        request = rpc.request(fields)
        while True:
            page = await self._unary(rpc, request, timeout)
            for item in rpc.result(page):
                yield item
            if not resume_after(request, page):
                return

    def _open_channel(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise ValueError("the client is closed")
        return self._channel

    async def _unary(self, rpc: Rpc[Any], request: Message, timeout: float | None) -> Message:
        call = self._open_channel().unary_unary(rpc.path, rpc.serialize, rpc.parse)
        attempts = Attempts(rpc, request, timeout, self._timeout)
        while True:
            try:
                return await call(request, metadata=self._authorization(), **attempts.options())
            except grpc.RpcError as error:
                await asyncio.sleep(attempts.pause_after(error))
