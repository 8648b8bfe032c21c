"""A network between a server and its PostgreSQL that can be cut."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Network:
    """A proxy that forwards connections to a PostgreSQL's socket, until they are cut.

    A connection over a cut network is not closed: it carries no more data,
    and its ends see nothing else. After mend(), only new connections work, as
    after a failover or behind a firewall that forgot the old ones.

    Attributes:
        connections: How many connections were made so far.
    """

    def __init__(self, target: Path) -> None:
        self.connections = 0
        self._target = str(target)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._lost: set[socket.socket] = set()
        self._cut = False
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    @property
    def url(self) -> str:
        """The URL of the database over this network."""
        return f"postgresql://palaver@127.0.0.1:{self._listener.getsockname()[1]}/postgres"

    def cut(self) -> None:
        """Silently drop the data of current and new connections."""
        self._cut = True
        self._lost.update(self._sockets)

    def mend(self) -> None:
        """Carry new connections again."""
        self._cut = False

    def close(self) -> None:
        """Close all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        for end in self._sockets:
            # A close alone does not reach the other end while a thread reads from the socket.
            with suppress(OSError):  # the other end closed
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            self._sockets.append(client)
            if self._cut:
                self._lost.add(client)
                continue
            server = socket.socket(socket.AF_UNIX)
            self._sockets.append(server)
            server.connect(self._target)
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                if source in self._lost:
                    return
                target.sendall(data)
            if source not in self._lost:
                target.shutdown(socket.SHUT_WR)
        except OSError:  # the other end closed
            pass


@contextmanager
def network_to(target: Path) -> Iterator[Network]:
    """Yield a network to the PostgreSQL with this socket."""
    network = Network(target)
    try:
        yield network
    finally:
        network.close()
