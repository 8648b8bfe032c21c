"""The embedder openai: any HTTP endpoint that does as OpenAI's does."""

import base64
import logging
import struct
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import httpx2

from palaver_server.embedding.embedders.embedder import normalized
from palaver_server.errors import EmbedderUnavailable, TextsRefused

_LOGGER = logging.getLogger(__name__)

# What says that the texts are at fault. All else is for whoever runs the endpoint or set
# it up: a wrong key or URL, too many requests, a server that is down.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

# What any endpoint takes that is set up right.
_HARMLESS = "hello"


class EndpointEmbedder:
    """An HTTP endpoint `<url>/embeddings`.

    Args:
        url: Such as https://api.openai.com/v1.
        model: The model's name there.
        key: Sent as a bearer token; empty: none is.
        dimensions: How many numbers of each vector are kept.
        timeout: Seconds that the endpoint may take.
    """

    batch_size = 32

    def __init__(self, *, url: str, model: str, key: str, dimensions: int, timeout: float) -> None:
        self.model = model
        self.dimensions = dimensions
        self._url = url.rstrip("/") + "/embeddings"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout)
        # It logs each request with its URL, which may hold a secret.
        logging.getLogger("httpx2").setLevel(logging.WARNING)

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Gives a vector for each text.

        Raises:
            EmbedderUnavailable: The endpoint does not answer, or not as it should.
            TextsRefused: It takes other texts, but not one of these.
        """
        try:
            return await self._request(texts)
        except TextsRefused:
            try:
                await self._request([_HARMLESS])
            except TextsRefused as error:  # so it is not the texts
                raise EmbedderUnavailable(str(error)) from error
            raise

    async def close(self) -> None:
        """Closes its connections."""
        await self._client.aclose()

    async def _request(self, texts: Sequence[str]) -> list[Sequence[float]]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        try:
            response = await self._client.post(self._url, json=body)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Not the error's text: it may hold the URL.
            raise EmbedderUnavailable(
                f"the embedder's endpoint cannot be reached: {type(error).__name__}"
            ) from error
        # Nor the answer's: it may quote the texts.
        reason = f"the embedder's endpoint answered with HTTP {response.status_code}"
        if response.status_code in _REFUSALS:
            raise TextsRefused(reason)
        if not response.is_success:
            raise EmbedderUnavailable(reason)
        try:
            return self._vectors(response.json(), len(texts))
        except (ValueError, TypeError, KeyError, struct.error, OverflowError) as error:
            raise EmbedderUnavailable(
                f"the embedder's endpoint did not answer with {len(texts)} vectors of at least"
                f" {self.dimensions} numbers"
            ) from error

    def _vectors(self, answer: Any, count: int) -> list[Sequence[float]]:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        if [row["index"] for row in rows] != list(range(count)):
            raise ValueError("not a vector for each text")
        return [self._vector(row["embedding"]) for row in rows]

    def _vector(self, embedding: str | list[float]) -> list[float]:
        """Reads a vector: in base64, which is quicker, or as the numbers that some give instead.

        A model that can give fewer dimensions puts what matters first: the rest is cut off.
        """
        if isinstance(embedding, str):
            content = base64.b64decode(embedding, validate=True)
            embedding = list(struct.unpack(f"<{len(content) // 4}f", content))
        if len(embedding) < self.dimensions:
            raise ValueError("too few dimensions")
        return normalized(embedding[: self.dimensions])
