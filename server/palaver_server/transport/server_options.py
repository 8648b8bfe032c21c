"""What a connection may ask of the server: gRPC's options."""

from dataclasses import dataclass

MAX_REQUEST_BYTES = 16 * 1024 * 1024

# What one connection has open at a time; its client keeps back what is beyond.
MAX_CALLS_PER_CONNECTION = 1000

_MAX_UNSEEN_CALLS = 10_000

_LEAST_SECONDS_BETWEEN_PINGS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the server's connections.

    Attributes:
        max_connections: Maximum open connections; further ones are refused.
        keepalive_seconds: Silence after which a peer is pinged.
        idle_seconds: Time without calls after which a connection is closed.
        age_seconds: Age at which a connection is closed.
        grace_seconds: How long calls on a connection that is being closed may continue.
    """

    max_connections: int
    keepalive_seconds: float
    idle_seconds: float
    age_seconds: float
    grace_seconds: float


def server_options(limits: ConnectionLimits, *, share_port: bool) -> tuple[tuple[str, int], ...]:
    """Return the options of the server under gRPC's names.

    Args:
        limits: Limits of connections.
        share_port: Whether other processes may listen on the same port.
    """
    return (
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        # What came and was not looked at yet. gRPC drops what is beyond as CANCELLED, which
        # tells nobody to retry; the limit of calls is to refuse them first.
        ("grpc.server.max_pending_requests", _MAX_UNSEEN_CALLS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_UNSEEN_CALLS),
        # Two servers on one port are a mistake to report, unless they are to share it.
        ("grpc.so_reuseport", int(share_port)),
        # Peers that are gone without a word, whether they have calls open or not.
        ("grpc.keepalive_time_ms", _milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", _milliseconds(limits.keepalive_seconds / 3)),
        # A ping has a timeout of its own, which counts if it is the longer one.
        ("grpc.http2.ping_timeout_ms", _milliseconds(limits.keepalive_seconds / 3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Clients that ping more often are sent away.
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            _milliseconds(_LEAST_SECONDS_BETWEEN_PINGS),
        ),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_idle_ms", _milliseconds(limits.idle_seconds)),
        ("grpc.max_connection_age_ms", _milliseconds(limits.age_seconds)),
        ("grpc.max_connection_age_grace_ms", _milliseconds(limits.grace_seconds)),
    )


def _milliseconds(seconds: float) -> int:
    """Converts, to what gRPC can hold; its greatest number stands for never."""
    return min(max(int(seconds * 1000), 1), 2**31 - 1)
