"""An HTTP endpoint that embeds as OpenAI's does, and fails as a test wants."""

import base64
import hashlib
import json
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from palaver_server.embedding.embedders.endpoint import EndpointEmbedder

DIMENSIONS = 8


def vector_of(text: str) -> list[float]:
    """A vector that depends on the words of a text and not on their order."""
    sums = [0.0] * DIMENSIONS
    for word in text.lower().split():
        digest = hashlib.sha256(word.encode()).digest()
        for place in range(DIMENSIONS):
            sums[place] += digest[place] / 255 - 0.5
    return sums


class Endpoint:
    """The endpoint; what is set here decides about the requests that come.

    Attributes:
        status: Its answer to every request, if not 200.
        refused: It answers with 400 to requests with a text that holds this.
        in_base64: It gives vectors in base64, if it is asked to.
        answer: Given as it is, in place of what it would say.
        requests: The bodies of all requests so far.
        keys: The `Authorization` of each request so far.
    """

    def __init__(self) -> None:
        self.status = 200
        self.refused: str | None = None
        self.in_base64 = True
        self.answer: bytes | None = None
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
        """Answers nothing from now on, until it is released."""
        self._open.clear()
        while self._waiting.acquire(blocking=False):
            """Those who asked before do not count."""

    def wait_until_asked(self) -> None:
        """Waits until another request stands before it."""
        assert self._waiting.acquire(timeout=20), "nobody asked"

    def release(self) -> None:
        """Answers again."""
        self._open.set()

    def embedder(self, *, timeout: float = 30, key: str = "", dimensions: int = DIMENSIONS) -> Any:
        """Makes an embedder that uses it."""
        return EndpointEmbedder(
            url=self.url, model="test", key=key, dimensions=dimensions, timeout=timeout
        )

    @property
    def variables(self) -> dict[str, str]:
        """The settings as environment variables."""
        return {f"PALAVER_{name.upper()}": str(value) for name, value in self.settings.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of a server that uses it."""
        return {
            "embedder": "openai",
            "embedder_url": self.url,
            "embedder_model": "test",
            "embedder_dimensions": DIMENSIONS,
        }

    def respond(self, request: dict[str, Any], key: str | None) -> tuple[int, bytes]:
        """Decides about a request."""
        self.requests.append(request)
        self.keys.append(key)
        self._waiting.release()
        assert self._open.wait(20), "it was not released"
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
        return rows[::-1]  # the index counts, not the order


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Somebody did not wait for the answer."""


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    """Runs an endpoint on a port of its own."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            assert self.path == "/v1/embeddings", self.path
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = endpoint.respond(json.loads(body), self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Keeps quiet."""

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
