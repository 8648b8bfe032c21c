"""Channels to the servers, and the methods of the services on them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver.v1.memory_service_pb2_grpc import MemoryServiceStub
from palaver.v1.session_service_pb2_grpc import SessionServiceStub
from palaver.v1.user_service_pb2_grpc import UserServiceStub
from tests.support.processes import ROOT

_SERVICE_CONFIG = (ROOT / "clients" / "service_config.json").read_text()

# Clients reconnect to a restarted server at once.
_OPTIONS = (
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
)


class Stubs:
    """The methods of all services on a channel, by name.

    Args:
        channel: A channel to one or all servers.
        heed_health: The channel sends no calls to servers that report NOT_SERVING.
    """

    def __init__(self, channel: grpc.aio.Channel, *, heed_health: bool) -> None:
        kinds: Any = (SessionServiceStub, MemoryServiceStub, UserServiceStub, AdminServiceStub)
        self._stubs = [kind(channel) for kind in kinds]
        self.heed_health = heed_health

    def rpc(self, name: str) -> Any:
        """Return a method by the name of its RPC."""
        return next(getattr(stub, name) for stub in self._stubs if hasattr(stub, name))


@asynccontextmanager
async def connected(addresses: Sequence[str]) -> AsyncIterator[Sequence[Stubs]]:
    """Connect to each server alone, and to all with the service config of the clients."""
    balanced = (*_OPTIONS, ("grpc.service_config", _SERVICE_CONFIG))
    async with AsyncExitStack() as stack:
        stubs = []
        for target in (*addresses, "ipv4:" + ",".join(addresses)):
            heed_health = target not in addresses
            options = balanced if heed_health else _OPTIONS
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options))
            stubs.append(Stubs(channel, heed_health=heed_health))
        yield stubs
