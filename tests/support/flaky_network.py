"""A network between clients and a server that loses answers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

_HEADERS = 1


class FlakyNetwork:
    """A proxy that forwards connections to a server, and breaks some when the answer arrives.

    The server has executed these calls; the caller cannot know.

    Attributes:
        to_lose: How many more answers to lose.
        lost: How many answers were lost.
        carried: How many answers were forwarded.
    """

    def __init__(self, target: str) -> None:
        self.to_lose = 0
        self.lost = 0
        self.carried = 0
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for carry in (self._carry_requests, self._carry_answers):
                    threading.Thread(target=carry, args=(client, server), daemon=True).start()

    def _carry_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), closing(server):
            while data := client.recv(65536):
                server.sendall(data)

    def _carry_answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), closing(client), server.makefile("rb") as frames:
            while header := frames.read(9):
                payload = frames.read(int.from_bytes(header[:3], "big"))
                if header[3] == _HEADERS and self.to_lose:
                    self.to_lose -= 1
                    self.lost += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(header + payload)
                self.carried += header[3] == _HEADERS


@contextmanager
def flaky_network_to(target: str) -> Iterator[FlakyNetwork]:
    """Yield a network to the server at this address that loses no answer yet."""
    network = FlakyNetwork(target)
    try:
        yield network
    finally:
        network.close()
