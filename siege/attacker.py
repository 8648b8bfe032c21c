"""The attacker's connections and calls. Responses are not parsed, so that they cost it little."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import Message

from siege.wire import Wire

# Each channel has a connection of its own, and the attacker receives what the server allows.
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 500),
)

_PAUSE_SECONDS = 0.1


class Attacker:
    """A credential that attacks.

    Args:
        address: The address of the server.
        key: The API key of the credential.

    Attributes:
        outcomes: How many of its calls ended with each code, and its other outcomes.
    """

    def __init__(self, address: str, key: str) -> None:
        self.outcomes: Counter[str] = Counter()
        self._address = address
        self._metadata = (("authorization", f"Bearer {key}"),)

    @asynccontextmanager
    async def channels(self, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
        """Yield channels, and close them after the block."""
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(grpc.aio.insecure_channel(self._address, _OPTIONS))
                for _ in range(count)
            ]

    async def call(
        self, channel: grpc.aio.Channel, method: str, request: Message | bytes
    ) -> bytes | None:
        """Make a unary call; return the response, None if the call failed."""
        call: Any = channel.unary_unary(_path(method))
        with self._counted():
            response: bytes = await call(_encoded(request), metadata=self._metadata)
            return response
        return None

    async def stall(self, channel: grpc.aio.Channel, method: str, request: Message) -> None:
        """Open a stream, read one chunk, and no more until the server ends the call."""
        method_call: Any = channel.unary_stream(_path(method))
        call = method_call(_encoded(request), metadata=self._metadata)
        with self._counted():
            await call.read()
            self.outcomes["stalled"] += 1
            await call.code()

    async def connect(self, *, window: int | None = None) -> Wire:
        """Open a connection for single frames.

        Args:
            window: The bytes that a response may have before it waits; None: the default.

        Raises:
            OSError: The server refuses the connection.
        """
        return await Wire.connect(self._address, self._metadata, self.outcomes, window)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count the call in the block, and how it ends."""
        self.outcomes["started"] += 1
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self.outcomes[error.code().name] += 1
        else:
            self.outcomes[grpc.StatusCode.OK.name] += 1


async def in_parallel(count: int, work: Callable[[], Awaitable[object]]) -> None:
    """Do some work again and again in as many tasks, until this is cancelled."""

    async def again() -> None:
        while True:
            with suppress(OSError):
                await work()
                continue
            await asyncio.sleep(_PAUSE_SECONDS)  # the server refuses connections

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(again())


def _path(method: str) -> str:
    return f"/palaver.v1.{method}"


def _encoded(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
