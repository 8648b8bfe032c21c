"""Reserved ports: kept from other servers, and free again when a server has ended."""

import socket
from typing import Any

import pytest

from palaver_server.bootstrap.ports import check_ports, reserved
from palaver_server.config import Settings

NOTHING: dict[str, Any] = {}


def listener(address: tuple[str, int], *options: int) -> socket.socket:
    """Listen as gRPC does: with SO_REUSEADDR, and SO_REUSEPORT where processes share the port."""
    listener = socket.socket()
    for option in (socket.SO_REUSEADDR, *options):
        listener.setsockopt(socket.SOL_SOCKET, option, 1)
    listener.bind(address)
    listener.listen()
    return listener


def as_pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def test_reserved_port_is_refused_to_another_server_before_workers_listen() -> None:
    with reserved("127.0.0.1:0") as address:
        with pytest.raises(RuntimeError, match="Address already in use"), reserved(address):
            pass
        with pytest.raises(RuntimeError, match="Address already in use"):
            check_ports(Settings(**{**NOTHING, "listen": address}))
        with pytest.raises(OSError, match="Address already in use"):
            listener(as_pair(address))

    with reserved(address):
        pass


def test_reserved_port_is_shared_by_workers() -> None:
    with (
        reserved("127.0.0.1:0") as address,
        listener(as_pair(address), socket.SO_REUSEPORT),
        listener(as_pair(address), socket.SO_REUSEPORT),
        pytest.raises(RuntimeError, match="Address already in use"),
        reserved(address),
    ):
        pass


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEPORT,)], ids=["one", "workers"])
def test_reserved_port_may_have_closing_connections_of_an_earlier_server(
    options: tuple[int, ...],
) -> None:
    with listener(("127.0.0.1", 0), *options) as earlier:
        place = earlier.getsockname()
        with socket.create_connection(place) as client:
            accepted, _ = earlier.accept()
            accepted.close()  # the side that closes first keeps the connection in TIME_WAIT
            assert client.recv(1) == b""

    with (
        reserved(f"{place[0]}:{place[1]}") as address,
        listener(as_pair(address), socket.SO_REUSEPORT),
    ):
        pass
