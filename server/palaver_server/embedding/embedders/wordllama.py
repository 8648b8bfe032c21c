"""The embedder `wordllama`: a small model in a Python package, run in this process."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palaver_server.errors import EmbedderUnavailable

_DIMENSIONS = 256


class WordLlamaEmbedder:
    """The means of word vectors: fast, and without a network.

    The first use loads the model, in a thread: loading takes longer than the rest of the start.
    """

    model = f"wordllama l2_supercat {_DIMENSIONS}"
    dimensions = _DIMENSIONS
    batch_size = 64

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._model: Any = None

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Return a vector for each text.

        Raises:
            EmbedderUnavailable: The model cannot be loaded.
        """
        return await asyncio.to_thread(self._embed, texts)

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def _embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        with self._loading:
            self._model = self._model or self._load()
        # One text at a time: the tokenizer pads the texts of a batch to the longest one, and
        # spreads them over all processors.
        return [self._model.embed([text], norm=True)[0].tolist() for text in texts]

    @staticmethod
    def _load() -> Any:
        try:
            import wordllama  # noqa: PLC0415 - the import takes half a second

            # The package contains the tokenizer too, but the loader looks for it in `cache_dir`.
            package = Path(wordllama.__file__).parent
            return wordllama.WordLlama.load(
                dim=_DIMENSIONS, cache_dir=package, disable_download=True
            )
        except Exception as error:
            raise EmbedderUnavailable(
                f"the model wordllama cannot be loaded: {type(error).__name__}"
            ) from error
