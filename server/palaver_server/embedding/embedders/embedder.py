"""The interface of embedders: texts of similar meaning get vectors near each other."""

import math
from collections.abc import Sequence
from typing import Protocol

# Only the beginning of a longer text is embedded. Models read at most a few thousand words, and
# one vector says little about any part of more of them.
MAX_CHARACTERS = 8000


class Embedder(Protocol):
    """An embedding model.

    Attributes:
        model: The model's name. Vectors are comparable if `model` and `dimensions` are equal.
        dimensions: How many numbers a vector has.
        batch_size: The best number of texts for one call.
    """

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def dimensions(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Return a vector of length 1 for each text. No text may be empty.

        Raises:
            EmbedderUnavailable: The model cannot be reached or used at the moment.
            TextsRefused: The model refuses at least one of these texts, but not others.
        """
        ...

    async def close(self) -> None:
        """Release connections and other resources."""
        ...


def normalized(vector: Sequence[float]) -> list[float]:
    """Return the vector of length 1 in the same direction.

    Raises:
        ValueError: The vector is zero or not finite.
    """
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise ValueError("the vector is zero or not finite")
    return [number / length for number in vector]
