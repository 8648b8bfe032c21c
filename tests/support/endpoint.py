"""An HTTP embedding endpoint with OpenAI's API, which fails on demand."""

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from palaver_server.embedding.embedders.endpoint import EndpointEmbedder

DIMENSIONS = 8


def vector_of(text: str) -> list[float]:
    """Return a vector that depends on the words of a text, not on their order."""
    sums = [0.0] * DIMENSIONS
    for word in text.lower().split():
        digest = hashlib.sha256(word.encode()).digest()
        for place in range(DIMENSIONS):
            sums[place] += digest[place] / 255 - 0.5
    return sums


class Endpoint:
    """The endpoint; its attributes decide how it answers requests.

    Attributes:
        status: The status of every answer.
        refused: Requests with a text that contains this get status 400.
        in_base64: Whether it returns vectors in base64 on request.
        answer: Sent instead of the regular answer.
        fault: Called to answer requests, instead of a regular answer.
        requests: The bodies of all requests so far.
        keys: The `Authorization` of each request so far.
    """

    def __init__(self) -> None:
        self.status = 200
        self.refused: str | None = None
        self.in_base64 = True
        self.answer: bytes | None = None
        self.fault: Callable[[BaseHTTPRequestHandler], None] | None = None
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self._open = threading.Event()
        self._open.set()
        self._waiting = threading.Semaphore(0)
        self.url = ""

    @property
    def texts(self) -> list[str]:
        """The texts of all requests so far."""
        return [text for request in self.requests for text in request["input"]]

    def hold(self) -> None:
        """Answer no request from now on, until the release."""
        self._open.clear()
        while self._waiting.acquire(blocking=False):
            """Forget earlier requests."""

    def wait_until_asked(self) -> None:
        """Wait until another request has arrived."""
        assert self._waiting.acquire(timeout=20), "no request arrived"

    def release(self) -> None:
        """Answer again."""
        self._open.set()

    def embedder(self, *, timeout: float = 30, key: str = "", dimensions: int = DIMENSIONS) -> Any:
        """Return an embedder that uses this endpoint."""
        return EndpointEmbedder(
            url=self.url, model="test", key=key, dimensions=dimensions, timeout=timeout
        )

    @property
    def variables(self) -> dict[str, str]:
        """The settings as environment variables."""
        return {f"PALAVER_{name.upper()}": str(value) for name, value in self.settings.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of a server that uses this endpoint."""
        return {
            "embedder": "openai",
            "embedder_url": self.url,
            "embedder_model": "test",
            "embedder_dimensions": DIMENSIONS,
            # However busy the machine is, searches wait for the endpoint.
            "embedder_query_timeout_seconds": 30,
        }

    def record(self, request: dict[str, Any], key: str | None) -> None:
        """Note a request that has arrived."""
        self.requests.append(request)
        self.keys.append(key)
        self._waiting.release()

    def respond(self, request: dict[str, Any]) -> tuple[int, bytes]:
        """Return the status and the content of an answer."""
        assert self._open.wait(20), "the endpoint was not released"
        texts = request["input"]
        if self.status != 200:
            return self.status, b"{}"
        if any(not text or (self.refused and self.refused in text) for text in texts):
            return 400, json.dumps({"error": f"I refuse {texts}"}).encode()
        if self.answer is not None:
            return 200, self.answer
        return 200, json.dumps({"data": self._rows(request, texts)}).encode()

    def _rows(self, request: dict[str, Any], texts: Sequence[str]) -> list[dict[str, Any]]:
        in_base64 = self.in_base64 and request.get("encoding_format") == "base64"
        rows = []
        for index, text in enumerate(texts):
            vector = vector_of(text)
            packed = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            rows.append({"index": index, "embedding": packed if in_base64 else vector})
        return rows[::-1]  # clients must use the index, not the order


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # connections that may wait to be accepted; the default is 5

    def handle_error(self, *_: Any) -> None:
        """The client did not wait for the answer."""


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    """Run an endpoint on a free port during the block."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            assert self.path == "/v1/embeddings", self.path
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            endpoint.record(request, self.headers["Authorization"])
            if endpoint.fault:
                endpoint.fault(self)
                return
            status, answer = endpoint.respond(request)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = _QuietServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.release()
        server.shutdown()
        server.server_close()
        thread.join()
