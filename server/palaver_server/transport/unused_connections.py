"""Close connections without an authenticated call when connections become scarce.

At its limit, gRPC closes new connections of all clients, and keeps the old ones. Clients
without a credential could thus lock out all others. gRPC cannot close a single connection, but the
kernel can: gRPC then sees that the peer has hung up.
"""

import asyncio
import os
import socket
from contextlib import suppress
from typing import Any

import psutil

_INTERVAL_SECONDS = 1.0

# Unauthenticated connections are closed while at least this part of all connections is in use.
_SCARCE = 0.8


class UnusedConnections:
    """The closer of a TCP port's connections without authenticated calls.

    Args:
        port: The port; other ports and Unix sockets are left alone.
        max_connections: The limit of connections.
        authenticated: The peers of authenticated calls, in gRPC's form. The peers of closed
            connections are removed from it.
    """

    def __init__(self, port: int, *, max_connections: int, authenticated: set[str]) -> None:
        self._port = port
        self._max_connections = max_connections
        self._authenticated = authenticated
        self._unauthenticated: set[str] = set()

    async def watch(self) -> None:
        """Look periodically until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL_SECONDS)
            await asyncio.to_thread(self._look)

    def _look(self) -> None:
        before = frozenset(self._authenticated)
        scarce = _SCARCE * self._max_connections
        # The number of descriptors is cheap to find, and bounds the number of connections.
        if psutil.Process().num_fds() < scarce and len(before) < self._max_connections:
            self._unauthenticated.clear()
            return
        connections = self._connections()
        self._authenticated.difference_update(before - connections.keys())
        unauthenticated = connections.keys() - self._authenticated
        if len(connections) >= scarce:
            # A connection seen for the first time may be about to make its first call.
            for peer in unauthenticated & self._unauthenticated:
                _hang_up(connections[peer])
        self._unauthenticated = set(unauthenticated)

    def _connections(self) -> dict[str, Any]:
        """Return the open connections of the port by their peers in gRPC's form."""
        return {
            _peer(connection.raddr): connection
            for connection in psutil.Process().net_connections("tcp")
            if connection.raddr and connection.laddr.port == self._port and connection.fd >= 0
        }


def _peer(address: Any) -> str:
    host = address.ip.removeprefix("::ffff:")  # an IPv4 client of a socket for both
    return f"ipv6:%5B{host}%5D:{address.port}" if ":" in host else f"ipv4:{host}:{address.port}"


def _hang_up(connection: Any) -> None:
    """Shut down a connection unless its descriptor has come to belong to another."""
    with suppress(OSError), socket.socket(fileno=os.dup(connection.fd)) as duplicate:
        if duplicate.getpeername()[:2] == tuple(connection.raddr):
            duplicate.shutdown(socket.SHUT_RDWR)
