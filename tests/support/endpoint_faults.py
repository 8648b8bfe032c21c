"""Ways in which an embedding endpoint fails a request: it is slow, down, refusing or wrong."""

import itertools
import json
import socket
import threading
import zlib
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.endpoint import DIMENSIONS

Fault = Callable[[BaseHTTPRequestHandler], None]

_MIB = 1024 * 1024

# It is never set: a slow handler waits for it.
_NEVER = threading.Event()


def status(code: int) -> Fault:
    """Return a fault that answers with this status."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _send(handler, b'{"error": "no"}', status=code)

    return answer


def body(content: bytes, **headers: str) -> Fault:
    """Return a fault that answers with this content."""
    return lambda handler: _send(handler, content, headers)


def vector(*numbers: Any) -> Fault:
    """Return a fault that answers with one vector of these numbers."""
    return body(json.dumps({"data": [{"index": 0, "embedding": numbers}]}).encode())


def right_but_for(more: bytes) -> Fault:
    """Return a fault that answers with a right vector, and with this as another field."""
    row = json.dumps({"index": 0, "embedding": [1] * DIMENSIONS}).encode()
    return body(b'{"data": [%s], "more": %s}' % (row, more))


def hang(handler: BaseHTTPRequestHandler) -> None:
    """Send nothing until the client closes the connection."""
    handler.connection.recv(1)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a space every few milliseconds, which is never too long for a read."""
    _begin(handler)
    while not _NEVER.wait(0.005):
        handler.wfile.write(b" ")


def close(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without an answer."""
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def close_during_answer(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection before the end of the answer."""
    _begin(handler, {"Content-Length": "1000"})
    handler.wfile.write(b'{"data": [')


def endless(handler: BaseHTTPRequestHandler) -> None:
    """Send white space, which JSON allows, until the client closes the connection."""
    _begin(handler)
    for _ in itertools.repeat(None, 4096):
        handler.wfile.write(b" " * _MIB)


def gzip_bomb(handler: BaseHTTPRequestHandler) -> None:
    """Send 256 MiB of white space in 256 KiB."""
    compressor = zlib.compressobj(wbits=31)
    parts = [compressor.compress(b" " * _MIB) for _ in range(256)]
    _send(handler, b"".join([*parts, compressor.flush()]), {"Content-Encoding": "gzip"})


FAULTS: dict[str, Fault] = {
    "hang": hang,
    "drip": drip,
    "close": close,
    "close during the answer": close_during_answer,
    "HTTP 500": status(500),
    "HTTP 429": status(429),
    "HTTP 401": status(401),
    "HTTP 400 for all texts": status(400),
    "redirect": status(302),
    "no JSON": body(b"<html>Bad gateway</html>"),
    "no UTF-8": body(b'{"data": "\xff"}'),
    "nothing": body(b""),
    "endless answer": endless,
    "gzip bomb": gzip_bomb,
    "broken gzip": body(b"{}", **{"Content-Encoding": "gzip"}),
    "deep JSON": right_but_for(b"[" * 100_000 + b"]" * 100_000),
    "many lists": right_but_for(b"[" + b"[]," * 9_000 + b"[]]"),
    "many objects": right_but_for(b"[" + b"{}," * 9_000 + b"{}]"),
    "many numbers": right_but_for(b"[" + b"0," * 20_000 + b"0]"),
    "too few dimensions": vector(*[1] * (DIMENSIONS - 1)),
    "NaN": vector(*[float("nan")] * DIMENSIONS),
    "infinite": vector(*[1e308] * DIMENSIONS),
    "zero": vector(*[0] * DIMENSIONS),
    "null": vector(*[None] * DIMENSIONS),
    "texts for numbers": vector(*["1"] * DIMENSIONS),
    "NaN in base64": body(b'{"data": [{"index": 0, "embedding": "%s"}]}' % (b"AADAfwAAwH8A" * 4)),
    "no vector": body(b'{"data": []}'),
}


def _begin(handler: BaseHTTPRequestHandler, headers: dict[str, str] | None = None) -> None:
    handler.send_response(200)
    handler.close_connection = True
    for name, value in {"Connection": "close", **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()


def _send(
    handler: BaseHTTPRequestHandler,
    content: bytes,
    headers: dict[str, str] | None = None,
    status: int = 200,
) -> None:
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)
