"""Read the project's documents: code blocks, commands, links and names."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.processes import ROOT

# The address in documents. Tests replace it by that of their server.
ADDRESS = "127.0.0.1:50051"

_BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)
_INLINE_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"[A-Z][A-Z_]*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """A command line of an `sh` block: its variables and its words, without redirections."""

    variables: dict[str, str]
    words: list[str]

    @classmethod
    def parse(cls, line: str) -> "Command":
        """Split a line as a shell does."""
        words = shlex.split(line.partition(">>")[0], comments=True)
        variables: dict[str, str] = {}
        while words and _ASSIGNMENT.fullmatch(words[0]):
            name, _, variables[name] = words.pop(0).partition("=")
        return cls(variables, words)


@dataclass(frozen=True)
class Document:
    """A Markdown file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        """The whole file."""
        return self.path.read_text("utf-8")

    @cached_property
    def prose(self) -> str:
        """The file without its code blocks."""
        return _BLOCK.sub("", self.text)

    def blocks(self, info: str) -> list[str]:
        """Return the code blocks with this info string, such as `sh` or `sh example`."""
        return [code for found, code in _BLOCK.findall(self.text) if found == info]

    @property
    def console_commands(self) -> list[tuple[str, str]]:
        """The commands of the `console` blocks, each with the output shown below it."""
        lines = "\n".join(self.blocks("console"))
        parts = re.split(r"^\$ (.*)$", lines, flags=re.MULTILINE)[1:]
        return list(zip(parts[::2], parts[1::2], strict=True))

    @property
    def shell_commands(self) -> Iterator[Command]:
        """The commands of all `sh` blocks, executed or not."""
        for block in (*self.blocks("sh"), *self.blocks("sh example")):
            for line in block.replace("\\\n", " ").splitlines():
                yield Command.parse(line)

    @property
    def inline_code(self) -> list[str]:
        """The texts in backquotes."""
        return _INLINE_CODE.findall(self.prose)

    @property
    def links(self) -> list[str]:
        """The targets of links, those to other sites left out."""
        return [link for link in _LINK.findall(self.prose) if "://" not in link]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors of the headings."""
        return {_anchor(heading) for heading in _HEADING.findall(self.prose)}


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


DOCUMENTS = [
    Document(path)
    for pattern in ("*.md", "clients/*/README.md", "docs/**/*.md")
    for path in sorted(ROOT.glob(pattern))
]


def having(info: str) -> list[Document]:
    """Return the documents with blocks of this info string; there is at least one."""
    documents = [document for document in DOCUMENTS if document.blocks(info)]
    assert documents, info
    return documents
