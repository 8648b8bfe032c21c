"""Addresses of servers: `HOST:PORT`, or `unix:PATH` for a Unix socket."""

from ipaddress import ip_address

_UNIX = "unix:"


def check_address(value: str) -> str:
    """Return an address unchanged if it is valid.

    Raises:
        ValueError: It is not valid.
    """
    if (value.startswith(_UNIX) and value != _UNIX) or _has_port(value):
        return value
    raise ValueError("must be HOST:PORT, such as 127.0.0.1:50051 or [::1]:50051, or unix:PATH")


def check_port_address(value: str) -> str:
    """Return an address unchanged if it is a host and a port.

    Raises:
        ValueError: It is not.
    """
    if _has_port(value) and not is_unix(value):
        return value
    raise ValueError("must be HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")


def _has_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    return bool(host) and port.isdecimal() and int(port) <= 65535


def split(address: str) -> tuple[str, int]:
    """Split an address into host and port."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def with_port(address: str, port: int) -> str:
    """Return an address with its port replaced, if it has one."""
    return address if is_unix(address) else f"{address.rpartition(':')[0]}:{port}"


def is_unix(address: str) -> bool:
    """Return whether an address is a Unix socket's."""
    return address.startswith(_UNIX)


def is_local(address: str) -> bool:
    """Return whether only programs on this machine can reach an address."""
    host = address.rpartition(":")[0].strip("[]")
    if is_unix(address) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a host name other than localhost may resolve to any machine
        return False
