"""The texts of messages: invented words with the frequency distribution of a natural language."""

import random
from collections.abc import Iterator
from itertools import product

WORDS_PER_SENTENCE = 12
SENTENCES = 5_000

# Zipf-Mandelbrot: the frequency of the word at a rank is 1 / (rank + shift). The first word is in
# a sixth of all messages, like common words of a language without its stop words.
_SHIFT = 20

# These words are in about a hundredth of all messages, as typical search terms are.
_SOUGHT_RANKS = range(300, 900)


def _vocabulary() -> list[str]:
    syllables = [a + b for a, b in product("bdfgklmnprtvz", "aeiou")]
    words = ["".join(three) for three in product(syllables, syllables, "klmnprt")]
    random.Random(1).shuffle(words)  # noqa: S311 - not used for security
    return words[:10_000]


_WORDS = _vocabulary()


def sentences() -> Iterator[str]:
    """Generate the sentences; each message has two of them."""
    weights = [1 / (rank + _SHIFT) for rank, _ in enumerate(_WORDS)]
    draw = random.Random(2)  # noqa: S311
    for _ in range(SENTENCES):
        words = draw.choices(_WORDS, weights, k=WORDS_PER_SENTENCE)
        yield " ".join(words).capitalize() + "."


def two_words(number: int) -> list[str]:
    """Return this number of queries of two words."""
    draw = random.Random(3)  # noqa: S311
    sought = [_WORDS[rank] for rank in _SOUGHT_RANKS]
    return [" ".join(draw.sample(sought, 2)) for _ in range(number)]
