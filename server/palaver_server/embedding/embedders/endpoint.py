"""The embedder `openai`: any HTTP endpoint with the API of OpenAI's embeddings."""

import asyncio
import base64
import logging
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httpx2
import orjson

from palaver_server.embedding.embedders.embedder import normalized
from palaver_server.errors import EmbedderUnavailable, TextsRefused

_LOGGER = logging.getLogger(__name__)

# Statuses that may mean a fault of the texts. All others have to be fixed by the operator: a
# wrong key or URL, too many requests, a server that is down.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

# A text that no working endpoint refuses.
_PROBE = "hello"

# Bounds of an answer for each text, checked before it is parsed: parsing holds the event loop.
# Models have up to 8,192 dimensions, and a number takes up to 25 bytes. orjson bounds the depth.
_MAX_BYTES = 256 * 1024
_MAX_COMMAS = 10_000
_MAX_BRACKETS = 100


class EndpointEmbedder:
    """An HTTP endpoint `<url>/embeddings`.

    Args:
        url: Such as https://api.openai.com/v1.
        model: The model's name there.
        key: Sent as a bearer token, unless empty.
        dimensions: How many numbers of each vector are kept.
        timeout: Maximum seconds until the end of an answer.
    """

    batch_size = 32

    def __init__(self, *, url: str, model: str, key: str, dimensions: int, timeout: float) -> None:
        self.model = model
        self.dimensions = dimensions
        self._url = url.rstrip("/") + "/embeddings"
        self._timeout = timeout
        # No compression: a compressed answer is as large as its sender likes.
        headers = {"Accept-Encoding": "identity"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        # No timeouts of the client: they apply to each read, and a slow sender would never exceed
        # them.
        self._client = httpx2.AsyncClient(headers=headers, timeout=None)
        # httpx2 logs the URL of each request at INFO; a URL may contain a secret.
        logging.getLogger("httpx2").setLevel(logging.WARNING)

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Return a vector for each text.

        Raises:
            EmbedderUnavailable: The endpoint does not answer, or its answer is not valid.
            TextsRefused: The endpoint refuses at least one of these texts, but not others.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await self._embed(texts)
        except TimeoutError as error:
            raise EmbedderUnavailable(
                f"the embedder's endpoint did not answer within {self._timeout:g} s"
            ) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        try:
            return await self._request(texts)
        except TextsRefused:
            try:
                await self._request([_PROBE])
            except TextsRefused as error:  # the endpoint refuses every text
                raise EmbedderUnavailable(str(error)) from error
            raise

    async def _request(self, texts: Sequence[str]) -> list[Sequence[float]]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        try:
            async with self._client.stream("POST", self._url, json=body) as response:
                content = await _read(response, _MAX_BYTES * len(texts))
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Without the error's text: it may contain the URL.
            raise EmbedderUnavailable(
                f"the embedder's endpoint cannot be reached: {type(error).__name__}"
            ) from error
        try:
            return self._vectors(_parse(content, len(texts)), len(texts))
        except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
            raise EmbedderUnavailable(
                f"the embedder's endpoint did not answer with {len(texts)} vectors of at least"
                f" {self.dimensions} numbers"
            ) from error

    def _vectors(self, answer: Any, count: int) -> list[Sequence[float]]:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        if [row["index"] for row in rows] != list(range(count)):
            raise ValueError("not one vector per text")
        return [self._vector(row["embedding"]) for row in rows]

    def _vector(self, embedding: str | list[float]) -> list[float]:
        """Decode a vector: base64, or from endpoints that ignore `encoding_format`, a JSON array.

        Longer vectors are truncated: models with a choice of dimensions are trained so that the
        first dimensions matter most.
        """
        if isinstance(embedding, str):
            content = base64.b64decode(embedding, validate=True)
            embedding = list(struct.unpack(f"<{len(content) // 4}f", content))
        if len(embedding) < self.dimensions:
            raise ValueError("too few dimensions")
        return normalized(embedding[: self.dimensions])


async def _read(response: httpx2.Response, max_bytes: int) -> bytes:
    # Without the answer's body: it may quote the texts.
    reason = f"the embedder's endpoint answered with HTTP {response.status_code}"
    if response.status_code in _REFUSALS:
        raise TextsRefused(reason)
    if not response.is_success:
        raise EmbedderUnavailable(reason)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise EmbedderUnavailable("the embedder's endpoint compresses its answer without request")
    content = bytearray()
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > max_bytes:
            raise EmbedderUnavailable(
                f"the embedder's endpoint answered with more than {max_bytes:,} bytes"
            )
    return bytes(content)


def _parse(content: bytes, texts: int) -> Any:
    brackets = content.count(b"[") + content.count(b"{")
    if content.count(b",") > _MAX_COMMAS * texts or brackets > _MAX_BRACKETS * texts:
        raise ValueError("too many values")
    return orjson.loads(content)
