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

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._client = self._loop.run_until_complete(self._connect(*arguments, **options))
        self.memory = _Blocking(self._client.memory, self._loop)
        self.users = _Blocking(self._client.users, self._loop)
        self.admin = _Blocking(self._client.admin, self._loop)

    async def _connect(self, *arguments: Any, **options: Any) -> AsyncClient:
        return AsyncClient(*arguments, **options)

    def close(self) -> None:
        """Close the client, and its connections, which gRPC leaves to the garbage collection."""
        self._loop.run_until_complete(self._client.close())
        self._loop.close()
        gc.collect()


@pytest.fixture(params=[BlockingClient, BlockingAsyncClient], ids=["Client", "AsyncClient"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """A function that makes clients of one flavour; they are closed after the test."""
    with ExitStack() as stack:

        def connect(*arguments: Any, **options: Any) -> BlockingClient:
            client: BlockingClient = request.param(*arguments, **options)
            stack.callback(client.close)
            return client

        yield connect


@pytest.fixture
def client(palaver: Client, connect: Connect) -> BlockingClient:
    """A client of the test's server, of each flavour in turn."""
    return connect(palaver.address)
