"""Paging by position (keyset paging), the same for every table."""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from server.store.connection import Row


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


def listing(table: str, columns: str, *, size: str) -> str:
    """Makes the statement that lists rows of a table by `id`, a page of a Span.

    Args:
        table: Its name, or a subquery in parentheses.
        columns: What is listed, metadata as text.
        size: Upper bound of a row's size as a protobuf message, in bytes, from its columns.

    Returns:
        The statement, but for `{condition}` and `{direction}`, which are to be filled in.
    """
    names = columns.replace("::text", "")
    return f"""
        SELECT has_more, {names} FROM (
            SELECT *,
                lead(true, 1, false) OVER listing AS has_more,
                row_number() OVER listing AS number,
                sum({size}) OVER listing AS total_size
            FROM (
                SELECT {columns} FROM {table} s
                WHERE id > %(after)s AND id < %(before)s AND {{condition}}
                ORDER BY id {{direction}}
                LIMIT %(limit)s + 1
            ) candidates
            WINDOW listing AS (ORDER BY id {{direction}})
        ) sized
        WHERE number = 1 OR number <= %(limit)s AND total_size <= {MAX_PAGE_BYTES}
        ORDER BY id {{direction}}
    """


def last_position(table: str) -> str:
    """Makes the statement that gives the last `id` of a live row of a table, 0 if there is none."""
    return f"SELECT coalesce(max(id), 0) FROM {table} WHERE deleted_at IS NULL"


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
    def of(cls, kind: type[RowT], rows: list[Row]) -> "Page[RowT]":
        """Builds a page from rows whose first column says whether another row follows.

        Args:
            kind: What the rest of a row is; a named tuple.
            rows: What was fetched.
        """
        new: Any = tuple.__new__  # what `_make` calls, at a third of the cost
        return cls([new(kind, row[1:]) for row in rows], bool(rows) and bool(rows[-1][0]))

    @property
    def next_cursor(self) -> int:
        """The cursor of the next page, 0 if there is none."""
        return self.rows[-1].position if self.has_more else 0
