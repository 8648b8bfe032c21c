"""The ports of a server: tested before anything starts, and reserved for several processes."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from palaver_server.addresses import is_unix, split, with_port
from palaver_server.config import Settings


def check_ports(settings: Settings) -> None:
    """Check that the server's addresses are free, before anything is created for it.

    Raises:
        RuntimeError: An address is in use, or does not belong to this machine.
    """
    addresses = {settings.listen, *(metrics_address(settings, n) for n in range(settings.workers))}
    for address in sorted(filter(None, addresses)):
        if not is_unix(address):
            with _bound(address):
                pass


def metrics_address(settings: Settings, number: int) -> str | None:
    """Return the metrics address of one of the server's processes; each has a port of its own."""
    if settings.metrics_listen is None:
        return None
    port = split(settings.metrics_listen)[1]
    return with_port(settings.metrics_listen, port and port + number)


@contextmanager
def reserved(address: str) -> Iterator[str]:
    """Reserve a port during the block without listening, and yield the address with the port.

    Raises:
        RuntimeError: The address is in use, or does not belong to this machine.
    """
    # Bound without SO_REUSEPORT first: with it, a port that other servers use would be shared.
    with _bound(address) as exclusive:
        address = with_port(address, exclusive.getsockname()[1])
    with _bound(address, socket.SO_REUSEPORT) as reservation:
        # Needed for binding only. With it, another server could bind the port until a worker
        # listens, and would then share its callers.
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        yield address


@contextmanager
def _bound(address: str, *options: int) -> Iterator[socket.socket]:
    host, port = split(address)
    try:
        family, *_, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family)
        # Connections of an earlier server that wait for their end do not keep its port.
        for option in (socket.SO_REUSEADDR, *options):
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(place)
    except OSError as error:
        raise RuntimeError(f"cannot listen on {address}: {error.strerror}") from error
    with bound:
        yield bound
