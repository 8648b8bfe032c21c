"""The embedder `openai`: any HTTP endpoint with the API of OpenAI's embeddings."""

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

# Statuses that may mean a fault of the texts. All others have to be fixed by the operator: a
# wrong key or URL, too many requests, a server that is down.
_REFUSALS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)

# A text that no working endpoint refuses.
_PROBE = "hello"


class EndpointEmbedder:
    """An HTTP endpoint `<url>/embeddings`.

    Args:
        url: Such as https://api.openai.com/v1.
        model: The model's name there.
        key: Sent as a bearer token, unless empty.
        dimensions: How many numbers of each vector are kept.
        timeout: Seconds to wait for an answer.
    """

    batch_size = 32

    def __init__(self, *, url: str, model: str, key: str, dimensions: int, timeout: float) -> None:
        self.model = model
        self.dimensions = dimensions
        self._url = url.rstrip("/") + "/embeddings"
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(headers=headers, timeout=timeout)
        # httpx2 logs the URL of each request at INFO; a URL may contain a secret.
        logging.getLogger("httpx2").setLevel(logging.WARNING)

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Return a vector for each text.

        Raises:
            EmbedderUnavailable: The endpoint does not answer, or its answer is not valid.
            TextsRefused: The endpoint refuses at least one of these texts, but not others.
        """
        try:
            return await self._request(texts)
        except TextsRefused:
            try:
                await self._request([_PROBE])
            except TextsRefused as error:  # the endpoint refuses every text
                raise EmbedderUnavailable(str(error)) from error
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _request(self, texts: Sequence[str]) -> list[Sequence[float]]:
        body = {"model": self.model, "input": list(texts), "encoding_format": "base64"}
        try:
            response = await self._client.post(self._url, json=body)
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            # Without the error's text: it may contain the URL.
            raise EmbedderUnavailable(
                f"the embedder's endpoint cannot be reached: {type(error).__name__}"
            ) from error
        # Without the answer's body: it may quote the texts.
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
