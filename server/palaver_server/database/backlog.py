"""Work that waits in the database, as the metrics show it."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple, TypeAlias

# An end to what counting costs.
MOST_COUNTED = 100_000


class Backlog(NamedTuple):
    """How much work of one kind waits: rows, and the seconds for which the oldest has waited."""

    rows: int
    oldest_seconds: float


# Measures one work's backlog, by the kind of row.
MeasureBacklog: TypeAlias = Callable[[], Awaitable[Mapping[str, Backlog]]]
