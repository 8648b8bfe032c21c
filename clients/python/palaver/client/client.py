"""The clients: a blocking one and one for asyncio, with the same calls."""

from collections.abc import Iterable
from types import TracebackType
from typing import Self

import grpc.aio

from palaver.client.async_caller import AsyncCaller
from palaver.client.async_calls import AsyncAdmin, AsyncMemory, AsyncUsers
from palaver.client.caller import Caller
from palaver.client.calls import Admin, Memory, Users
from palaver.client.connection import Authorization, Key, Tls, connection_to

DEFAULT_ADDRESS = "127.0.0.1:50051"
DEFAULT_TIMEOUT_SECONDS = 30.0


class Client:
    """A blocking client, for use by any number of threads.

    Connects when the first call is made, and reconnects by itself.

    Attributes:
        memory: The calls of `SessionService` and `MemoryService`.
        users: The calls of `UserService`.
        admin: The calls of `AdminService`.

    Args:
        address: `HOST:PORT` or another target of gRPC, or a list of `HOST:PORT`, which share the
            calls.
        key: An API key or a token, or a function that returns the current one.
        tls: Whether to connect with TLS, or how.
        plaintext_key: Whether to send the key without TLS to other machines, as behind a mesh.
        timeout: Seconds that a call may take, retries included. `DeleteUser` has 300; streams have
            no limit, unless a call gives one.

    Raises:
        ValueError: The options do not allow a connection.
        OSError: A file cannot be read, or a name in a list of addresses cannot be resolved.
    """

    def __init__(
        self,
        address: str | Iterable[str] = DEFAULT_ADDRESS,
        *,
        key: Key | None = None,
        tls: bool | Tls = False,
        plaintext_key: bool = False,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        to = connection_to(address, tls=tls, key=key, plaintext_key=plaintext_key)
        if to.credentials:
            self._channel = grpc.secure_channel(to.target, to.credentials, to.options)
        else:
            self._channel = grpc.insecure_channel(to.target, to.options)
        caller = Caller(self._channel, Authorization(key), timeout)
        self.memory = Memory(caller)
        self.users = Users(caller)
        self.admin = Admin(caller)

    def close(self) -> None:
        """Close the connections; running calls are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """A client for asyncio, for use on one event loop.

    Connects when the first call is made, and reconnects by itself.

    Attributes:
        memory: The calls of `SessionService` and `MemoryService`.
        users: The calls of `UserService`.
        admin: The calls of `AdminService`.

    Args:
        address: As for `Client`.
        key: As for `Client`. The function must not block.
        tls: As for `Client`.
        plaintext_key: As for `Client`.
        timeout: As for `Client`.

    Raises:
        ValueError: The options do not allow a connection.
        OSError: A file cannot be read, or a name in a list of addresses cannot be resolved.
    """

    def __init__(
        self,
        address: str | Iterable[str] = DEFAULT_ADDRESS,
        *,
        key: Key | None = None,
        tls: bool | Tls = False,
        plaintext_key: bool = False,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        to = connection_to(address, tls=tls, key=key, plaintext_key=plaintext_key)
        if to.credentials:
            channel = grpc.aio.secure_channel(to.target, to.credentials, to.options)
        else:
            channel = grpc.aio.insecure_channel(to.target, to.options)
        self._caller = AsyncCaller(channel, Authorization(key), timeout)
        self.memory = AsyncMemory(self._caller)
        self.users = AsyncUsers(self._caller)
        self.admin = AsyncAdmin(self._caller)

    async def close(self) -> None:
        """Close the connections; running calls are cancelled."""
        await self._caller.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
