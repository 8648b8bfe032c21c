"""An issuer of tokens, and the web server on which it publishes its keys."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm

ISSUER, AUDIENCE = "https://issuer.example", "palaver"

# Generating one is slow.
_RSA_KEY = rsa.generate_private_key(65537, 2048)


class SigningKey:
    """A key to sign with, under an id."""

    def __init__(self, algorithm: str, key_id: str | None = None) -> None:
        self.algorithm = algorithm
        self.key_id = key_id or f"of {algorithm}"
        self.key: Any
        match algorithm:
            case "RS256":
                self.key = _RSA_KEY
                public = RSAAlgorithm.to_jwk(_RSA_KEY.public_key(), as_dict=True)
            case "ES256":
                self.key = ec.generate_private_key(ec.SECP256R1())
                public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
            case _:
                self.key = f"the secret of {self.key_id}".encode() * 4
                public = HMACAlgorithm.to_jwk(self.key, as_dict=True)
        public.pop("key_ops", None)
        self.jwk: dict[str, Any] = {**public, "kid": self.key_id}

    def sign(self, headers: dict[str, Any] | None = None, **claims: Any) -> str:
        """Return a valid token with these claims; claims that are None are left out."""
        return signed(self.key, self.algorithm, {"kid": self.key_id, **(headers or {})}, **claims)


def signed(key: Any, algorithm: str, headers: dict[str, Any], **claims: Any) -> str:
    """Return a token signed with this key."""
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "somebody", "role": "writer"}
    everything = {**good, "exp": int(time.time()) + 600, **claims}
    payload = {name: value for name, value in everything.items() if value is not None}
    return jwt.encode(payload, key, algorithm, {k: v for k, v in headers.items() if v is not None})


def key_set(*keys: SigningKey) -> bytes:
    """Return a JWKS of these keys."""
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


class Publisher:
    """A web server on this machine that publishes keys.

    Attributes:
        content: The body of its answers; None: status 503.
        count: The number of requests so far.
        drip: Whether to answer a byte at a time, without an end.
    """

    def __init__(self, content: bytes) -> None:
        self.content: bytes | None = content
        self.headers: dict[str, str] = {}
        self.status = 200
        self.count = 0
        self.drip = False
        self._may_answer = threading.Event()
        self._may_answer.set()
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.count += 1
                publisher._may_answer.wait()
                self.send_response(publisher.status)
                for name, value in publisher.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(ConnectionError):
                    while publisher.drip:
                        self.wfile.write(b" ")
                        time.sleep(0.02)
                    self.wfile.write(publisher.content or b"")

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks.json"

    def hold(self) -> None:
        """Hold back answers until `release`."""
        self._may_answer.clear()

    def release(self) -> None:
        """Send the answers held back."""
        self._may_answer.set()

    @contextmanager
    def serving(self) -> Iterator["Publisher"]:
        """Serve during the block."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.drip = False
            self.release()
            self._server.shutdown()
            thread.join()
            self._server.server_close()
