"""Backlogs: work waiting in the database, as the metrics report it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias

# Counting stops here, so that the cost of a scrape is bounded.
MAX_COUNTED_ROWS = 100_000


class Backlog(NamedTuple):
    """The number of rows that wait, and how many seconds the oldest has waited."""

    rows: int
    oldest_seconds: float


# Measures one backlog, by kind of row.
MeasureBacklog: TypeAlias = Callable[[], Awaitable[Mapping[str, Backlog]]]
