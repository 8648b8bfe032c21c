"""The target, the options and the credentials of a channel."""

import ipaddress
import json
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from palaver.client.rpc import SERVICE_CONFIG

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")

# An API key or a token, or a function that returns the current one.
Key: TypeAlias = str | Callable[[], str]


@dataclass(frozen=True)
class Tls:
    """How a client connects with TLS.

    Attributes:
        ca: PEM file of the authorities that sign servers' certificates; None: those of gRPC.
        certificate: PEM file of the client's own certificate, for servers that require one.
        key: PEM file of the private key of that certificate.
        server_name: The name in the servers' certificates, if it is not that of the address.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Return the credentials of gRPC.

        Raises:
            ValueError: There is a certificate without its key, or the other way round.
            OSError: A file cannot be read.
        """
        if bool(self.certificate) != bool(self.key):
            raise ValueError("certificate, key: must be given together")
        ca, key, certificate = (
            Path(file).read_bytes() if file else None
            for file in (self.ca, self.key, self.certificate)
        )
        return grpc.ssl_channel_credentials(ca, key, certificate)


class Authorization:
    """The metadata that presents a credential with each call.

    Args:
        key: The key, if there is one.
    """

    def __init__(self, key: Key | None) -> None:
        self._key = key

    def __call__(self) -> tuple[tuple[str, str], ...]:
        """Return the metadata of a call."""
        if self._key is None:
            return ()
        key = self._key if isinstance(self._key, str) else self._key()
        return (("authorization", f"Bearer {key}"),)


@dataclass(frozen=True)
class Connection:
    """The arguments of a channel.

    Attributes:
        target: The target of gRPC.
        options: The options of the channel.
        credentials: The credentials of the channel; None: no TLS.
    """

    target: str
    options: list[tuple[str, str | int]]
    credentials: grpc.ChannelCredentials | None


def connection_to(
    address: str | Iterable[str], *, tls: bool | Tls, key: Key | None, plaintext_key: bool
) -> Connection:
    """Return the arguments of a channel to one or several servers.

    Raises:
        ValueError: The addresses or the options do not allow a connection.
        OSError: A name cannot be resolved, or a file cannot be read.
    """
    addresses = [address] if isinstance(address, str) else list(address)
    secured = Tls() if tls is True else tls or None
    if key is not None and not secured and not plaintext_key and not all(map(_is_local, addresses)):
        raise ValueError(
            "key: would be sent in the clear: give tls, or plaintext_key=True in a mesh"
        )
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(SERVICE_CONFIG)),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
        # Notices a server that is gone without closing its connections.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]
    if secured and secured.server_name:
        options.append(("grpc.ssl_target_name_override", secured.server_name))
    if secured and len(addresses) > 1 and not secured.server_name:
        raise ValueError("server_name: must be given with TLS and several addresses")
    return Connection(_target(addresses), options, secured.credentials() if secured else None)


def _target(addresses: list[str]) -> str:
    if not addresses:
        raise ValueError("address: must name at least one server")
    if len(addresses) == 1:
        return addresses[0]
    if any(address.startswith(_SCHEMES) for address in addresses):
        raise ValueError("address: in a list, each must be HOST:PORT; got one with a scheme")
    resolved = [_resolve(address) for address in addresses]
    versions = {ipaddress.ip_address(host).version for host, _ in resolved}
    if len(versions) > 1:
        raise ValueError("address: in a list, all must be IPv4 or all IPv6")
    if versions == {4}:
        return "ipv4:" + ",".join(f"{host}:{port}" for host, port in resolved)
    return "ipv6:" + ",".join(f"[{host}]:{port}" for host, port in resolved)


def _is_local(address: str) -> bool:
    """Return whether only programs on this machine can reach an address."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost" or address.startswith(("unix:", "unix-abstract:")):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name other than localhost may resolve to any machine
        return False


def _resolve(address: str) -> tuple[str, int]:
    """Return the IP address and the port of HOST:PORT, IPv4 if the host has both.

    gRPC takes several addresses in one target only as IP addresses.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise ValueError(f"address: must be HOST:PORT; got {address!r}")
    found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    family_first = sorted(found, key=lambda each: each[0] != socket.AF_INET)
    return str(family_first[0][4][0]), int(port)
