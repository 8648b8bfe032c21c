"""Diversity: chooses hits that are good and unlike each other."""

import asyncio
from collections.abc import Mapping, Sequence

from palaver_server.search.keyword_store import Hit
from palaver_server.store.messages import MessageKey


async def diverse(
    hits: Sequence[Hit], words: Mapping[MessageKey, frozenset[str]], *, diversity: float, limit: int
) -> list[Hit]:
    """Choose hits one by one, by their score and their likeness to those chosen before.

    This is maximal marginal relevance. The likeness of two messages is the share of their words
    that both have (the Jaccard index).

    Args:
        hits: Best first.
        words: The distinct words of each message, or a sample. Hits without an entry are not
            chosen.
        diversity: From 0, only the score counts, to 1, only the likeness counts.
        limit: How many hits to choose.
    """
    likeness = {hit: 0.0 for hit in hits if hit.key in words}  # of the hits not chosen yet
    chosen: list[Hit] = []
    while likeness and len(chosen) < limit:
        best = max(
            likeness, key=lambda hit: (1 - diversity) * hit.score - diversity * likeness[hit]
        )
        del likeness[best]
        await asyncio.sleep(0)  # a choice takes up to a few milliseconds
        chosen.append(best)
        likeness = {
            hit: max(greatest, _likeness(words[hit.key], words[best.key]))
            for hit, greatest in likeness.items()
        }
    return chosen


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    common = len(one & other)
    return common / (len(one) + len(other) - common or 1)
