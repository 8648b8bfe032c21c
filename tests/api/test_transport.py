"""What a connection may ask of the server: calls at a time, pings, and how long it stays."""

import struct
from collections.abc import Iterator

import grpc
import pytest

from palaver.v1.session_service_pb2 import ListSessionsRequest
from palaver_server.transport import server_options as transport
from tests.conftest import StartServer
from tests.support.client import Client, wait_until
from tests.support.http2 import (
    ENHANCE_YOUR_CALM,
    GOAWAY,
    MAX_CONCURRENT_STREAMS,
    PING,
    SETTINGS,
    Http2,
)


@pytest.fixture
def http2(palaver: Client) -> Iterator[Http2]:
    connection = Http2(palaver.address)
    yield connection
    connection.close()


def test_a_connection_is_told_how_many_calls_it_may_have_open(http2: Http2) -> None:
    told = next(f.payload for f in http2.received() if f.kind == SETTINGS and f.payload)

    settings = dict(struct.iter_unpack(">HI", told))
    assert settings[MAX_CONCURRENT_STREAMS] == transport.MAX_CALLS_PER_CONNECTION


def test_who_pings_all_the_time_is_sent_away(http2: Http2) -> None:
    http2.send(PING, bytes(8), times=5)

    farewell = next(frame.payload for frame in http2.received() if frame.kind == GOAWAY)

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

    frames = [frame.kind for frame in silent.received()]

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
