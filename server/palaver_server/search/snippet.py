"""Snippets: the part of a content that shows why it was found."""

import re
from collections.abc import Iterable, Iterator, Sequence

MARK = "**"
_WIDTH = 200

Span = tuple[int, int]


def snippet(content: str, words: Iterable[Span]) -> str:
    """Cuts out the part where the words are densest, and marks them in it.

    Args:
        content: What it is a part of.
        words: Where the words are; they may overlap, and then are one.
    """
    spans = _merged(words)
    start, end = _densest(spans, content)
    pieces, position = [], start
    for first, last in spans:
        if start <= first < end:
            pieces += [content[position:first], MARK, content[first : min(last, end)], MARK]
            position = min(last, end)
    text = "".join([*pieces, content[position:end]])
    return "…" * (start > 0) + " ".join(text.split()) + "…" * (end < len(content))


def marked_spans(marked: str, start: str, end: str) -> Iterator[Span]:
    """Gives where the marks were set in a text, as if they took no room there."""
    removed = 0
    for match in re.finditer(f"{start}([^{end}]*){end}", marked):
        first = match.start() - removed
        yield first, first + len(match[1])
        removed += len(start) + len(end)


def occurrences(content: str, words: Sequence[str]) -> Iterator[Span]:
    """Gives where words are in a content, overlapping or not."""
    if words:
        pattern = "|".join(re.escape(word) for word in words)
        for match in re.finditer(f"(?=({pattern}))", content):
            yield match.span(1)


def _merged(spans: Iterable[Span]) -> list[Span]:
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _densest(spans: Sequence[Span], content: str) -> Span:
    """Finds the part with the most words, the first of them, and puts them in its middle."""
    first, last, most, inside = 0, 0, 0, 0
    for index, (begin, end) in enumerate(spans):
        inside = max(inside, index + 1)
        while inside < len(spans) and spans[inside][1] <= begin + _WIDTH:
            inside += 1
        if inside - index > most:
            most, first, last = inside - index, begin, max(end, spans[inside - 1][1])
    start = max(0, min(first - (_WIDTH - (last - first)) // 2, len(content) - _WIDTH))
    start = min(start, first)
    stop = min(len(content), start + _WIDTH)
    if start > 0:  # not in the middle of a word, if there is room
        start = content.find(" ", start, first) + 1 or start
    if stop < len(content):
        space = content.rfind(" ", last, stop)
        stop = space if space > start else stop
    return start, stop
