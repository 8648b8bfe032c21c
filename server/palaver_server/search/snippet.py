"""Snippets: the part of a message's content that shows why the message was found."""

import re
from collections.abc import Iterable, Iterator, Sequence

# Around each match in the result of ts_headline. Contents have none there: they are separators.
MATCH_START = "\x02"
MATCH_END = "\x03"

# Around each match in a snippet, as in Markdown.
HIGHLIGHT = "**"

_MAX_CHARACTERS = 200

# The beginning of a content that is searched.
_SEARCHED_CHARACTERS = 65536

# The start and the end of a part of a content, in characters.
TextRange = tuple[int, int]


def snippet(content: str, marked: str, grams: Sequence[str], removed: str = "") -> str:
    """Return the part of a content that shows best why it was found, with highlights.

    Args:
        content: The content of a message.
        marked: The beginning of the content as ts_headline returns it: with marks around each
            match, and a space in place of each separator. Empty if it has separators only.
        grams: Strings that are matches too, wherever they are in the searched part.
        removed: Characters of the content that the marked part lacks.
    """
    if removed:
        marked = _restored(content, marked, frozenset(removed))
    matches = [*marked_ranges(marked), *occurrences(content[:_SEARCHED_CHARACTERS], grams)]
    return excerpt(content, matches)


def excerpt(content: str, matches: Iterable[TextRange]) -> str:
    """Return the part of a content where the matches are densest, with highlights.

    Args:
        content: The whole content.
        matches: In any order; overlapping ones count as one.
    """
    ranges = _merged(matches)
    start, end = _densest(ranges, content)
    pieces, position = [], start
    for first, last in ranges:
        if start <= first < end:
            before, position = content[position:first], min(last, end)
            pieces += [before, HIGHLIGHT, content[first:position], HIGHLIGHT]
    text = "".join([*pieces, content[position:end]])
    return "…" * (start > 0) + " ".join(text.split()) + "…" * (end < len(content))


def _restored(content: str, marked: str, removed: frozenset[str]) -> str:
    """Insert the characters that a marked part lacks; those that end a match belong to it."""
    pieces, position = [], 0
    for character in marked:
        if character != MATCH_START:
            first = position
            while content[position : position + 1] in removed:
                position += 1
            pieces.append(content[first:position])
            position += character != MATCH_END
        pieces.append(character)
    return "".join(pieces)


_MARKED = re.compile(f"{MATCH_START}([^{MATCH_END}]*){MATCH_END}")


def marked_ranges(marked: str) -> Iterator[TextRange]:
    """Return the ranges between marks, as they are in the text without the marks."""
    removed = 0
    for match in _MARKED.finditer(marked):
        first = match.start() - removed
        yield first, first + len(match[1])
        removed += len(MATCH_START) + len(MATCH_END)


def occurrences(content: str, strings: Sequence[str]) -> Iterator[TextRange]:
    """Return the ranges of a content that are any of the strings; they may overlap."""
    if strings:
        pattern = "|".join(map(re.escape, strings))
        for match in re.finditer(f"(?=({pattern}))", content):
            yield match.span(1)


def _merged(ranges: Iterable[TextRange]) -> list[TextRange]:
    merged: list[TextRange] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _densest(ranges: Sequence[TextRange], content: str) -> TextRange:
    """Return the first part that has the most of the ranges, which are in its middle."""
    first, last, most, inside = 0, 0, 0, 0
    for index, (begin, end) in enumerate(ranges):
        inside = max(inside, index + 1)
        while inside < len(ranges) and ranges[inside][1] <= begin + _MAX_CHARACTERS:
            inside += 1
        if inside - index > most:
            most, first, last = inside - index, begin, max(end, ranges[inside - 1][1])
    margin = (_MAX_CHARACTERS - (last - first)) // 2
    start = max(0, min(first - margin, len(content) - _MAX_CHARACTERS))
    start = min(start, first)
    stop = min(len(content), start + _MAX_CHARACTERS)
    if start > 0:  # start after a space, if there is one before the first range
        start = content.find(" ", start, first) + 1 or start
    if stop < len(content):
        space = content.rfind(" ", last, stop)
        stop = space if space > start else stop
    return start, stop
