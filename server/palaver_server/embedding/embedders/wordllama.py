"""The embedder wordllama: a small model that comes in a package and runs in this process."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_DIMENSIONS = 256


class WordLlamaEmbedder:
    """Means of word vectors: quick, and without a network.

    The model is loaded when it is first needed, in a thread: it takes longer than the rest
    of a start.
    """

    model = f"wordllama l2_supercat {_DIMENSIONS}"
    dimensions = _DIMENSIONS
    batch_size = 64

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._model: Any = None

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Gives a vector for each text."""
        return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """Holds nothing."""

    def _embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        with self._loading:
            self._model = self._model or _load()
        # One by one: the texts of a batch would all be padded to the longest one, and be
        # spread over all processors.
        return [self._model.embed([text], norm=True)[0].tolist() for text in texts]


def _load() -> Any:
    import wordllama  # noqa: PLC0415 - it imports half a second's worth of others

    # Its weights and its tokenizer are in the package; it looks for the latter in the cache.
    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(dim=_DIMENSIONS, cache_dir=package, disable_download=True)
