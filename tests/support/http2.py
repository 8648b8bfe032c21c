"""An HTTP/2 client that sends single frames, to do what libraries do not."""

import socket
import ssl
import struct
from collections.abc import Iterator, Mapping
from typing import NamedTuple

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, END_HEADERS = 1, 4
ACK = 1
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 3, 4
NO_ERROR = 0
CANCEL = 8
ENHANCE_YOUR_CALM = 11


class Frame(NamedTuple):
    """A received frame."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class Http2:
    """A connection to a server.

    Args:
        address: The address of the server.
        tls: Set up for TLS, and a session to resume, if there is one.
        window: The size of the flow-control window of each stream.
    """

    def __init__(
        self,
        address: str,
        tls: tuple[ssl.SSLContext, ssl.SSLSession | None] | None = None,
        *,
        window: int = 64 * 1024 - 1,
    ) -> None:
        self._address = address
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
        if tls:
            context, session = tls
            self._socket = context.wrap_socket(
                self._socket, server_hostname="localhost", session=session
            )
        self._reader = self._socket.makefile("rb")
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))

    def send(
        self, kind: int, payload: bytes, *, flags: int = 0, stream: int = 0, times: int = 1
    ) -> None:
        """Send a frame."""
        header = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._socket.sendall((header + payload) * times)

    def call(
        self,
        method: str,
        request: bytes,
        metadata: Mapping[str, str] | None = None,
        *,
        stream: int = 1,
        sent: int | None = None,
    ) -> None:
        """Start a call.

        Args:
            method: The full name of the method.
            request: The only request.
            metadata: Further headers.
            stream: The number of the stream.
            sent: Send only this many bytes of the request and of the five before it, and do not
                end the request; None: send all.
        """
        headers = {
            ":method": "POST",
            ":scheme": "http",
            ":path": method,
            ":authority": self._address,
            "te": "trailers",
            "content-type": "application/grpc",
            **(metadata or {}),
        }
        fields = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers.items()
        )
        self.send(HEADERS, fields, flags=END_HEADERS, stream=stream)
        message = struct.pack(">BI", 0, len(request)) + request
        if sent is None:
            self.send(DATA, message, flags=END_STREAM, stream=stream)
        elif sent:
            self.send(DATA, message[:sent], stream=stream)

    def cancel(self, stream: int) -> None:
        """Cancel a call."""
        self.send(RST_STREAM, struct.pack(">I", CANCEL), stream=stream)

    @property
    def session(self) -> ssl.SSLSession:
        """The TLS session, once something was received."""
        assert isinstance(self._socket, ssl.SSLSocket)
        assert self._socket.session
        return self._socket.session

    @property
    def is_resumed(self) -> bool:
        """Whether the connection resumed a TLS session."""
        return isinstance(self._socket, ssl.SSLSocket) and bool(self._socket.session_reused)

    def take(self, size: int) -> None:
        """Enlarge the flow-control window by this many bytes."""
        for stream in (0, 1):
            self.send(WINDOW_UPDATE, struct.pack(">I", size), stream=stream)

    def received(self, *, answers_pings: bool = True) -> Iterator[Frame]:
        """Yield each frame until the server closes the connection."""
        while header := self._reader.read(9):
            size = int.from_bytes(header[:3], "big")
            frame = Frame(
                header[3], header[4], int.from_bytes(header[5:], "big"), self._reader.read(size)
            )
            if answers_pings and frame.kind == PING and not frame.flags & ACK:
                self.send(PING, frame.payload, flags=ACK)
            yield frame

    def received_until_end(self) -> Iterator[Frame]:
        """Yield the frames of the call until it ends; the last one ends it."""
        for frame in self.received():
            if frame.stream:
                yield frame
            if frame.kind == RST_STREAM or (frame.flags & END_STREAM and frame.kind == HEADERS):
                return

    def close(self) -> None:
        """Close the connection."""
        self._reader.close()
        self._socket.close()
