"""Fixtures of the tests of the Python client: both flavours, called in the same way."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from inspect import isawaitable
from typing import Any, cast

import pytest

from palaver.client import AsyncClient
from palaver.client import Client as BlockingClient
from tests.support.client import Client

# Makes a client with these options, of either flavour.
Connect = Callable[..., BlockingClient]


class _Blocking:
    """The calls of an AsyncClient, each made to its end on an event loop of the test."""

    def __init__(self, calls: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._calls = calls
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **fields: Any) -> Any:
            result = getattr(self._calls, name)(*arguments, **fields)
            if isawaitable(result):
                return self._loop.run_until_complete(result)
            return self._each(result)

        return call

    def _each(self, results: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while True:
                yield self._loop.run_until_complete(cast("Any", anext(results)))
        except StopAsyncIteration:
            return
        finally:
            self._loop.run_until_complete(cast("Any", results).aclose())


class BlockingAsyncClient:
    """An AsyncClient with the blocking calls of a Client."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any, **options: Any) -> None:
        async def connect() -> AsyncClient:
            return AsyncClient(*arguments, **options)

        self._loop = loop
        self._client = loop.run_until_complete(connect())
        self.memory = _Blocking(self._client.memory, loop)
        self.users = _Blocking(self._client.users, loop)
        self.admin = _Blocking(self._client.admin, loop)

    def close(self) -> None:
        """Close the client."""
        self._loop.run_until_complete(self._client.close())


@pytest.fixture(params=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A function that makes clients of one flavour; they are closed after the test."""
    with ExitStack() as stack:
        loop = asyncio.new_event_loop()
        stack.callback(gc.collect)  # gRPC closes connections of asyncio when a channel is collected
        stack.callback(loop.close)

        def connect(*arguments: Any, **options: Any) -> BlockingClient:
            client: Any = (
                BlockingClient(*arguments, **options)
                if request.param == "Client"
                else BlockingAsyncClient(loop, *arguments, **options)
            )
            stack.callback(client.close)
            return cast("BlockingClient", client)

        yield connect


@pytest.fixture
def client(palaver: Client, connect: Connect) -> BlockingClient:
    """A client of the test's server, of each flavour in turn."""
    return connect(palaver.address)
