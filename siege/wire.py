"""A connection for single HTTP/2 frames, to do what gRPC's own clients do not.

The client acknowledges settings and pings, so that the server takes it for alive. It drops what it
receives, and never enlarges the flow-control windows: a response waits in the server once the
windows are full.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Sequence
from typing import Self

from palaver_server.addresses import split

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_INITIAL_WINDOW_SIZE = 4

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES = 9
_MAX_FRAME_BYTES = 16384


class Wire:
    """A connection; `connect` opens it.

    Args:
        address: The address of the server.
        metadata: The metadata of each call.
        outcomes: Counts started calls, those that the server ended, and connections that it closed.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
        metadata: Sequence[tuple[str, str]],
        outcomes: Counter[str],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._address = address
        self._metadata = metadata
        self._outcomes = outcomes
        self._next_stream = 1
        self._ended = 0

    @classmethod
    async def connect(
        cls,
        address: str,
        metadata: Sequence[tuple[str, str]],
        outcomes: Counter[str],
        window: int | None,
    ) -> Self:
        """Open a connection on which a response has a window of as many bytes."""
        reader, writer = await asyncio.open_connection(*split(address))
        wire = cls(reader, writer, address, metadata, outcomes)
        writer.write(_PREFACE)
        settings = b"" if window is None else struct.pack(">HI", _INITIAL_WINDOW_SIZE, window)
        wire._send(_SETTINGS, settings)
        return wire

    def call(
        self, method: str, request: bytes, *, is_gzip: bool = False, sent: int | None = None
    ) -> None:
        """Start a call.

        Args:
            method: Its service and name.
            request: The request. All requests of a connection together have up to 64 KiB, since
                the client ignores how far the server enlarges the window.
            is_gzip: Whether the request is compressed.
            sent: The bytes of the request that are sent, its header of 5 bytes included; the
                stream is then left open.
        """
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", f"/palaver.v1.{method}"),
            (":authority", self._address),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *([("grpc-encoding", "gzip")] if is_gzip else ()),
            *self._metadata,
        ]
        # A literal field without indexing. All lengths are below 127, which is one byte.
        block = b"".join(
            b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in fields
        )
        self._send(_HEADERS, block, flags=_END_HEADERS, stream=stream)
        message = (struct.pack(">BI", is_gzip, len(request)) + request)[:sent]
        for start in range(0, len(message), _MAX_FRAME_BYTES):
            self._send(_DATA, message[start : start + _MAX_FRAME_BYTES], stream=stream)
        if sent is None:
            self._send(_DATA, b"", flags=_END_STREAM, stream=stream)
        self._outcomes["started"] += 1

    async def drop_everything(self, *, calls: int | None = None) -> None:
        """Receive and drop frames until as many calls have ended, or the server disconnects."""
        try:
            while calls is None or self._ended < calls:
                header = await self._reader.readexactly(_HEADER_BYTES)
                size = int.from_bytes(header[:3], "big")
                self._take(header[3], header[4], await self._reader.readexactly(size))
                await self._writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            self._outcomes["closed"] += 1

    def close(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._send(kind, payload if kind == _PING else b"", flags=_ACK)
        elif kind == _RST_STREAM or (kind == _HEADERS and flags & _END_STREAM):
            self._outcomes["ended"] += 1
            self._ended += 1
        elif kind == _GOAWAY:
            self._outcomes["sent away"] += 1

    def _send(self, kind: int, payload: bytes, *, flags: int = 0, stream: int = 0) -> None:
        header = struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream)
        self._writer.write(header + payload)
