"""What the messages say: made-up words, as unevenly common as those of a language are."""

import random
from collections.abc import Iterator
from itertools import product

WORDS_A_SENTENCE = 12
SENTENCES = 5_000

# Of the word at a rank, by Mandelbrot: 1 / (rank + shift). The first is in a sixth of all
# messages, as the common words of a language are once its stop words are left out.
_SHIFT = 20

# In a hundredth of all messages or so, as what people look for is.
_SOUGHT_RANKS = range(300, 900)


def _vocabulary() -> list[str]:
    syllables = [a + b for a, b in product("bdfgklmnprtvz", "aeiou")]
    words = ["".join(three) for three in product(syllables, syllables, "klmnprt")]
    random.Random(1).shuffle(words)  # noqa: S311 - nobody is to be surprised
    return words[:10_000]


_WORDS = _vocabulary()


def sentences() -> Iterator[str]:
    """Gives the sentences, of which each message has two."""
    weights = [1 / (rank + _SHIFT) for rank, _ in enumerate(_WORDS)]
    draw = random.Random(2)  # noqa: S311
    for _ in range(SENTENCES):
        words = draw.choices(_WORDS, weights, k=WORDS_A_SENTENCE)
        yield " ".join(words).capitalize() + "."


def two_words(number: int) -> list[str]:
    """Gives so many queries of two words."""
    draw = random.Random(3)  # noqa: S311
    sought = [_WORDS[rank] for rank in _SOUGHT_RANKS]
    return [" ".join(draw.sample(sought, 2)) for _ in range(number)]
