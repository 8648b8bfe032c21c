"""Keyset paging: a page starts after the last key of the page before it."""

from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

from palaver_server.database.connection import Row


class Positioned(Protocol):
    """A row with a position in its listing."""

    @property
    def position(self) -> int:
        """The position; positive."""
        ...


RowT = TypeVar("RowT", bound=Positioned)

# Maximum size of a page's rows as protobuf messages, so that a response stays below the 4 MiB
# that gRPC clients accept. Each table has an upper bound of a row's size, SIZE; a metadata Struct
# takes up to 4 times its JSON text (a list of digits does).
MAX_PAGE_BYTES = 4 * 1024 * 1024 - 64 * 1024


def listing(table: str, columns: str, *, size: str) -> str:
    """Return the SQL that lists rows of a table by `id`, one page of a key range.

    Args:
        table: Its name, or a subquery in parentheses.
        columns: The selected columns, metadata as text.
        size: Upper bound of a row's size as a protobuf message, in bytes, from its columns.

    Returns:
        The SQL, with the placeholders `{condition}` and `{direction}`.
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


def listing_in_order(table: str, columns: str, *, size: str) -> str:
    """Return the SQL of `listing` for a bound caller's path.

    It sorts first, then evaluates the path up to the end of the page. A plan that evaluates it
    before the sort could fail on rows beyond the page, and the choice of the plan depends on all
    users' rows. The LIMIT, of all rows, keeps PostgreSQL from moving the path into the subquery,
    and lets it use an index in this order for a page.

    Returns:
        The SQL, with the further placeholder `{accessible}`.
    """
    return listing(_in_order(table), columns, size=size)


def counting(table: str) -> str:
    """Return the SQL that counts rows of a listing, one more than a limit at most.

    Returns:
        The SQL, with the placeholders of `listing`.
    """
    return f"""
        SELECT count(*) FROM (
            SELECT id FROM {table} s
            WHERE id > %(after)s AND id < %(before)s AND {{condition}}
            LIMIT %(limit)s + 1
        ) counted
    """


def counting_in_order(table: str) -> str:
    """Return the SQL of `counting` for a bound caller's path, as `listing_in_order` does."""
    return counting(_in_order(table))


def _in_order(table: str) -> str:
    return f"""(
        SELECT * FROM {table} s
        WHERE id > %(after)s AND id < %(before)s AND {{accessible}}
        ORDER BY id {{direction}}
        LIMIT 9223372036854775807
    )"""


def last_position(table: str) -> str:
    """Return the SQL that selects the greatest `id` of a table's live rows, 0 if there are none."""
    return f"SELECT coalesce(max(id), 0) FROM {table} WHERE deleted_at IS NULL"


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys between `after` and `before`, both exclusive, and the order to list them in."""

    after: int = 0
    before: int = 2**63 - 1
    newest_first: bool = False

    @classmethod
    def from_cursor(cls, cursor: int, *, newest_first: bool = False) -> "KeyRange":
        """Return the range after a cursor; the whole listing for cursor 0."""
        return (
            cls(newest_first=newest_first).beyond(cursor)
            if cursor
            else cls(newest_first=newest_first)
        )

    def beyond(self, position: int) -> "KeyRange":
        """Return the part of the range that follows the row at this position."""
        if self.newest_first:
            return replace(self, before=position)
        return replace(self, after=position)

    def up_to(self, position: int) -> "KeyRange":
        """Return the part of the range that has no position above this one."""
        return replace(self, before=min(self.before, position + 1))

    @property
    def direction(self) -> str:
        """The order, as a SQL keyword."""
        return "DESC" if self.newest_first else "ASC"


@dataclass(frozen=True, slots=True)
class Page(Generic[RowT]):
    """Rows in listing order, and whether more rows follow."""

    rows: list[RowT]
    has_more: bool

    @classmethod
    def of(cls, kind: type[RowT], rows: list[Row]) -> "Page[RowT]":
        """Build a page from rows whose first column says whether another row follows.

        Args:
            kind: The named tuple that the other columns make up.
            rows: The fetched rows.
        """
        new: Any = tuple.__new__  # called by `_make` too, at three times the cost
        return cls([new(kind, row[1:]) for row in rows], bool(rows) and bool(rows[-1][0]))

    @property
    def next_cursor(self) -> int:
        """The cursor of the next page; 0 if there is none."""
        return self.rows[-1].position if self.has_more else 0
