"""Timestamps as PostgreSQL sends them in binary: integers, passed on without parsing."""

from datetime import UTC, datetime, timedelta
from typing import TypeAlias

# Microseconds since EPOCH. Building a datetime from each would cost as much as loading the
# rest of the row.
PgTimestamp: TypeAlias = int

EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


def as_datetime(timestamp: PgTimestamp) -> datetime:
    """Convert a timestamp to a datetime, the type that statements take as a parameter."""
    return EPOCH + timedelta(microseconds=timestamp)
