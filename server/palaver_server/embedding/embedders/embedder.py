"""What an embedder is: it turns texts into vectors that are near each other if they mean alike."""

import math
from collections.abc import Sequence
from typing import Protocol

# What comes after is not embedded. Models read a few thousand words at the most, and one
# vector for more says little about any of them.
MAX_CHARACTERS = 8000


class Embedder(Protocol):
    """A model, and how to reach it.

    Attributes:
        model: The model's name. Vectors can be compared if it and `dimensions` are the same.
        dimensions: How many numbers a vector has.
        batch_size: How many texts are best embedded in one call.
    """

    @property
    def model(self) -> str: ...  # noqa: D102

    @property
    def dimensions(self) -> int: ...  # noqa: D102

    @property
    def batch_size(self) -> int: ...  # noqa: D102

    async def embed(self, texts: Sequence[str]) -> list[Sequence[float]]:
        """Gives a vector of length 1 for each text. No text may be empty.

        Raises:
            EmbedderUnavailable: The model cannot be reached or used for now.
            TextsRefused: The model takes other texts, but not one of these.
        """
        ...

    async def close(self) -> None:
        """Gives up what it holds."""
        ...


def normalized(vector: Sequence[float]) -> list[float]:
    """Gives the vector of length 1 in the same direction.

    Raises:
        ValueError: It has no direction: it is zero, or not finite.
    """
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise ValueError("a vector without a direction")
    return [number / length for number in vector]
