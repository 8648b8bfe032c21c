"""Paging by position (keyset paging), the same for every table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar


class Positioned(Protocol):
    """A row that has a position in its listing."""

    @property
    def position(self) -> int:
        """The position; positive."""
        ...


RowT = TypeVar("RowT", bound=Positioned)

# Upper bound of the rows of a page as protobuf messages, so that a response stays
# under the 4 MiB that gRPC clients accept. Tables give an upper bound of one row as
# SIZE; a metadata Struct takes up to 4 times its JSON text, as lists of digits do.
MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024


@dataclass(frozen=True, slots=True)
class Span:
    """The positions between `after` and `before`, both exclusive, and their order."""

    after: int = 0
    before: int = 2**63 - 1
    newest_first: bool = False

    @classmethod
    def from_cursor(cls, cursor: int, *, newest_first: bool = False) -> "Span":
        """What a listing has beyond a cursor; all there is beyond 0."""
        return (
            cls(newest_first=newest_first).beyond(cursor)
            if cursor
            else cls(newest_first=newest_first)
        )

    def beyond(self, position: int) -> "Span":
        """What is left of the listing after the row at this position."""
        if self.newest_first:
            return replace(self, before=position)
        return replace(self, after=position)

    def up_to(self, position: int) -> "Span":
        """The part of the span that has no position above this one."""
        return replace(self, before=min(self.before, position + 1))

    @property
    def direction(self) -> str:
        """The order as SQL has it."""
        return "DESC" if self.newest_first else "ASC"


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """Rows in the order of the listing, and whether it has more after them."""

    rows: list[RowT]
    has_more: bool

    @classmethod
    def of(cls, make: Callable[[Iterable[Any]], RowT], rows: list[tuple[Any, ...]]) -> "Page[RowT]":
        """Builds a page from rows whose first column says whether another row follows."""
        return cls([make(row[1:]) for row in rows], bool(rows) and bool(rows[-1][0]))

    @property
    def next_cursor(self) -> int:
        """The cursor of the next page, 0 if there is none."""
        return self.rows[-1].position if self.has_more else 0
