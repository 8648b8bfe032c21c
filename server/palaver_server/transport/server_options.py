"""The limits of requests and connections, as options of the gRPC server."""

from dataclasses import dataclass

from palaver_server.durations import milliseconds
from palaver_server.services.limits import MAX_REQUEST_BYTES

# Concurrent calls of one connection. Its client holds back further calls, but starts one as soon as
# another has ended, while the server still holds that one's memory. The server then resets the new
# call (RST_STREAM REFUSED_STREAM), which clients see as UNAVAILABLE. So the limit is beyond the
# calls that may run and wait by default: the concurrency limit applies first.
MAX_CALLS_PER_CONNECTION = 8192

# Between the soft and the hard limit, gRPC refuses calls at random, so both are the same.
MAX_METADATA_BYTES = 32 * 1024

# The flow-control window of a call whose request is not being read.
UNREAD_BYTES_PER_CALL = 16 * 1024

_MAX_PENDING_REQUESTS = 10_000

_MIN_PING_INTERVAL_SECONDS = 10

# For TLS and the first frame of HTTP/2. gRPC's default of two minutes lets clients that send
# nothing occupy the connections of others.
_HANDSHAKE_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """Limits of the server's connections.

    Attributes:
        max_connections: Maximum open connections; further ones are refused.
        keepalive_seconds: Silence after which a peer is pinged.
        idle_seconds: Time without calls after which a connection is closed; 0: never.
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
    # gRPC closes idle connections at once, with GOAWAY INTERNAL_ERROR, and old ones gracefully.
    idle = (("grpc.max_connection_idle_ms", milliseconds(limits.idle_seconds)),)
    return (
        *(idle if limits.idle_seconds else ()),
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
        ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
        ("grpc.http2.lookahead_bytes", UNREAD_BYTES_PER_CALL),
        # It would enlarge the windows to 4 MiB and more.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.server_handshake_timeout_ms", milliseconds(_HANDSHAKE_TIMEOUT_SECONDS)),
        # Requests that have arrived but have not started. gRPC refuses further ones with
        # CANCELLED, which clients do not retry, so the concurrency limit must apply first.
        ("grpc.server.max_pending_requests", _MAX_PENDING_REQUESTS),
        ("grpc.server.max_pending_requests_hard_limit", 2 * _MAX_PENDING_REQUESTS),
        # Without it, a second server on the same port fails to start.
        ("grpc.so_reuseport", int(share_port)),
        # Ping silent peers, with and without open calls, to detect broken connections.
        ("grpc.keepalive_time_ms", milliseconds(limits.keepalive_seconds)),
        ("grpc.keepalive_timeout_ms", milliseconds(limits.keepalive_seconds / 3)),
        # Pings have a timeout of their own; the longer of the two applies.
        ("grpc.http2.ping_timeout_ms", milliseconds(limits.keepalive_seconds / 3)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # Close connections of clients that ping more often.
        (
            "grpc.http2.min_ping_interval_without_data_ms",
            milliseconds(_MIN_PING_INTERVAL_SECONDS),
        ),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.max_connection_age_ms", milliseconds(limits.age_seconds)),
        ("grpc.max_connection_age_grace_ms", milliseconds(limits.grace_seconds)),
    )
