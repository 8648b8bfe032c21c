"""Durations as other programs take them."""

_MAX_MILLISECONDS = 2**31 - 1


def milliseconds(seconds: float) -> int:
    """Return a duration for PostgreSQL's and gRPC's settings, which are 32-bit integers.

    It is at least 1, because 0 would disable the setting; the maximum disables it for gRPC,
    and is 24 days for PostgreSQL.
    """
    return min(max(int(seconds * 1000), 1), _MAX_MILLISECONDS)
