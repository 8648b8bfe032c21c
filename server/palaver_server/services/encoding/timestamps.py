"""Conversion of timestamps."""

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from palaver_server.database.timestamps import PgTimestamp
from palaver_server.services.encoding import wire

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_DATETIME = datetime.max.replace(tzinfo=UTC)


def timestamp_message(timestamp: PgTimestamp) -> Timestamp:
    """Return the `Timestamp` of a stored timestamp."""
    return Timestamp.FromString(wire.timestamp(timestamp))


def datetime_from_timestamp(timestamp: Timestamp, *, round_up: bool = False) -> datetime:
    """Return a datetime, rounded down to the microsecond, or up.

    Raises:
        OverflowError: The timestamp is outside the years 1 to 9999.
    """
    microseconds, rest = divmod(timestamp.nanos, 1000)
    time = _UNIX_EPOCH + timedelta(seconds=timestamp.seconds, microseconds=microseconds)
    return min(time, _MAX_DATETIME - _MICROSECOND) + _MICROSECOND if round_up and rest else time
