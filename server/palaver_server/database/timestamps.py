"""Times as PostgreSQL keeps and sends them: numbers, which nobody need take apart."""

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

# Microseconds since EPOCH. To make a datetime of each takes as long as to load all else of a row.
Moment: TypeAlias = int

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def as_datetime(moment: Moment) -> datetime:
    """Converts a moment to what a parameter of a statement is to be."""
    return EPOCH + timedelta(microseconds=moment)
