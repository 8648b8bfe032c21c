"""The HTTP server of the metrics, bounded in connections and time."""

import logging
import socket
import sys
import threading
import time
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any, TypeAlias
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import prometheus_client
from prometheus_client import CollectorRegistry

_LOGGER = logging.getLogger(__name__)

# A scrape takes milliseconds. A client that sends its request in small pieces, or does not read
# the response, must keep neither a thread nor Prometheus from its turn.
MAX_CONNECTIONS = 16
MAX_CONNECTION_SECONDS = 10.0

# As in the base classes: a socket, or a pair of a datagram and a socket.
Request: TypeAlias = Any


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A server with one thread that accepts connections, and a thread for each connection.

    Args:
        host: The host to listen on.
        port: The port; 0 picks a free one.
        registry: The metrics.

    Raises:
        OSError: The address cannot be used.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, registry: CollectorRegistry) -> None:
        self.address_family, *_, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._lock = threading.Lock()
        self._opened: dict[socket.socket, float] = {}  # oldest first
        super().__init__(place[:2], _SilentHandler)  # type: ignore[arg-type]
        self.set_app(prometheus_client.make_wsgi_app(registry))
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def start(self) -> None:
        """Start to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stop serving, and close the connections."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        self._hang_up(keep=0)

    def process_request(self, request: Request, client_address: Any) -> None:
        """Serve a connection in a thread; close the oldest one if there are too many."""
        self._hang_up(keep=MAX_CONNECTIONS - 1)
        with self._lock:
            self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Request) -> None:
        """Close a connection."""
        with self._lock:
            self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Close connections that take too long; the server calls this every half second."""
        self._hang_up(keep=MAX_CONNECTIONS, opened_before=time.monotonic() - MAX_CONNECTION_SECONDS)

    def handle_error(self, _request: Request, client_address: Any) -> None:
        """Log an error of a connection; the base class writes past the log."""
        error = sys.exception()
        if isinstance(error, OSError):
            _LOGGER.info("metrics: the connection of %s was lost: %s", client_address, error)
        else:
            _LOGGER.error("metrics: serving %s failed", client_address, exc_info=error)

    def _hang_up(self, *, keep: int, opened_before: float = float("-inf")) -> None:
        """Shut down the oldest connections; their threads then end and close them."""
        with self._lock:
            oldest = list(self._opened.items())
            surplus = len(oldest) - keep
            ending = [
                connection
                for position, (connection, opened) in enumerate(oldest)
                if position < surplus or opened < opened_before
            ]
            for connection in ending:
                del self._opened[connection]
        for connection in ending:
            with suppress(OSError):  # its thread has closed it
                connection.shutdown(socket.SHUT_RDWR)


class _SilentHandler(WSGIRequestHandler):
    """A handler that logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""
