"""Parse the text of a search, in the syntax of web search engines."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# Only the beginning of a longer text is read: a pasted page says at its start what it is about.
MAX_CHARACTERS = 4096

# -"a phrase", "a phrase", -word, or a word. A quote without a closing quote separates words.
_PART = re.compile(r'(?<!\S)(-?)"([^"]*)"|(?<!\S)-([^\s"-]\S*)|([^\s"]+)')


@dataclass(frozen=True, slots=True)
class SearchText:
    """A parsed text.

    Attributes:
        words: The optional words, separated by spaces: any of them matches.
        required: Lists of alternatives, phrases or words; of each, one must be there.
        excluded: Phrases and words that must not be there.
    """

    words: str = ""
    required: list[list[str]] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, text: str) -> "SearchText":
        """Parse a text; every text is valid."""
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


_Part = tuple[str, str]  # the kind, "word", "phrase" or "-", and the text


def _parts(text: str) -> Iterator[_Part]:
    for minus, phrase, excluded, word in _PART.findall(text):
        if excluded or minus:
            yield "-", excluded or phrase
        elif word:
            yield "word", word
        else:
            yield "phrase", phrase


def _choices(parts: list[_Part]) -> list[list[_Part]]:
    """Group the alternatives that `or` joins. Between two words, `or` is a word like others."""
    choices: list[list[_Part]] = []
    joined = False
    for index, part in enumerate(parts):
        neighbors = parts[index - 1 : index] + parts[index + 1 : index + 2]
        if (
            part[1].lower() == "or"
            and len(neighbors) == 2
            and not joined
            and any(kind == "phrase" for kind, _ in neighbors)
        ):
            joined = True
        elif joined:
            choices[-1].append(part)
            joined = False
        else:
            choices.append([part])
    return choices
