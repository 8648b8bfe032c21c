"""The text of a search, read as a search box reads it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# What comes after is not looked at: a pasted page says at its start what it is about.
MAX_CHARACTERS = 4096

# "a phrase", -"a phrase", -word, or a word. A quote that nothing closes is like any other
# sign between words.
_PART = re.compile(r'(?<!\S)(-?)"([^"]*)"|(?<!\S)-([^\s"-]\S*)|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class SearchText:
    """What a text asks for.

    Attributes:
        words: The words of which any will do, with spaces between.
        required: Choices of phrases: of each, one must be there.
        excluded: Phrases that must not be there.
    """

    words: str = ""
    required: list[list[str]] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> "SearchText":
        """Reads a text; there is none that it cannot read."""
        parts = list(_parts(text[:MAX_CHARACTERS]))
        choices = _choices([part for part in parts if part[0] != "-"])
        return cls(
            words=" ".join(text for choice in choices for kind, text in choice if kind == "word"),
            required=[
                [text for _, text in choice]
                for choice in choices
                if any(kind == "phrase" for kind, _ in choice)
            ],
            excluded=[text for kind, text in parts if kind == "-"],
        )


_Part = tuple[str, str]


def _parts(text: str) -> Iterator[_Part]:
    for minus, phrase, excluded, word in _PART.findall(text):
        if excluded or minus:
            yield "-", excluded or phrase
        elif word:
            yield "word", word
        else:
            yield "phrase", phrase


def _choices(parts: list[_Part]) -> list[list[_Part]]:
    """Puts together what `or` joins. Without a phrase beside it, it is a word like others."""
    choices: list[list[_Part]] = []
    joined = False
    for index, part in enumerate(parts):
        beside = parts[index - 1 : index] + parts[index + 1 : index + 2]
        if (
            part[1].lower() == "or"
            and len(beside) == 2
            and not joined
            and any(kind == "phrase" for kind, _ in beside)
        ):
            joined = True
        elif joined:
            choices[-1].append(part)
            joined = False
        else:
            choices.append([part])
    return choices
