"""What a connection may ask of the server: calls at a time, pings, and how long it stays."""

import socket
import struct
from collections.abc import Iterator

import grpc
import pytest
from palaver.v1.session_service_pb2 import ListSessionsRequest

from server import transport
from tests.client import Client, wait_until
from tests.conftest import StartServer

SETTINGS, PING, GOAWAY = 4, 6, 7
MAX_CONCURRENT_STREAMS = 3
ENHANCE_YOUR_CALM = 11


class Http2:
    """A connection of a client that speaks HTTP/2 in single frames."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS, b"")

    def send(self, kind: int, payload: bytes) -> None:
        """Sends a frame that is of no stream."""
        header = struct.pack(">I", len(payload))[1:] + bytes([kind, 0]) + bytes(4)
        self._socket.sendall(header + payload)

    def received(self) -> Iterator[tuple[int, bytes]]:
        """Gives the kind and the payload of each frame, until the server closes."""
        reader = self._socket.makefile("rb")
        while header := reader.read(9):
            yield header[3], reader.read(int.from_bytes(header[:3], "big"))

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()


@pytest.fixture
def http2(palaver: Client) -> Iterator[Http2]:
    connection = Http2(palaver.address)
    yield connection
    connection.close()


def test_a_connection_is_told_how_many_calls_it_may_have_open(http2: Http2) -> None:
    told = next(payload for kind, payload in http2.received() if kind == SETTINGS and payload)

    settings = dict(struct.iter_unpack(">HI", told))
    assert settings[MAX_CONCURRENT_STREAMS] == transport.MAX_CALLS_PER_CONNECTION


def test_who_pings_all_the_time_is_sent_away(http2: Http2) -> None:
    for _ in range(10):
        http2.send(PING, bytes(8))

    farewell = next(payload for kind, payload in http2.received() if kind == GOAWAY)

    assert int.from_bytes(farewell[4:8], "big") == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "settings",
    [{"connection_idle_seconds": 0.3}, {"connection_age_seconds": 0.3}],
    ids=["idle", "old"],
)
def test_a_connection_that_is_idle_or_old_ends_and_the_next_call_makes_another(
    start_server: StartServer, settings: dict[str, float]
) -> None:
    palaver = start_server(**settings)
    states: list[grpc.ChannelConnectivity] = []
    palaver.channel.subscribe(states.append)

    palaver.sessions.ListSessions(ListSessionsRequest())
    wait_until(lambda: grpc.ChannelConnectivity.IDLE in states[1:])

    palaver.sessions.ListSessions(ListSessionsRequest())


def test_a_peer_that_does_not_answer_pings_is_taken_as_gone(start_server: StartServer) -> None:
    silent = Http2(start_server(keepalive_seconds=1).address)

    frames = [kind for kind, _ in silent.received()]

    assert frames[-2:] == [PING, GOAWAY]
    silent.close()


def test_connections_beyond_the_limit_are_closed_until_others_are(
    start_server: StartServer,
) -> None:
    palaver = start_server(max_connections=1)
    palaver.sessions.ListSessions(ListSessionsRequest())

    # Without the option all channels of a process to an address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
    with grpc.insecure_channel(palaver.address, options) as channel:
        surplus = Client(channel, palaver.address)
        call = surplus.sessions.ListSessions.future(ListSessionsRequest())
        assert call.code() is grpc.StatusCode.UNAVAILABLE

        palaver.channel.close()
        surplus.sessions.ListSessions(ListSessionsRequest(), wait_for_ready=True, timeout=20)
