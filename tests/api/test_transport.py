"""Transport: sizes, calls per connection, pings, ages, and the number of connections."""

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import AddMemoryRequest
from palaver.v1.session_service_pb2 import ListSessionsRequest
from palaver_server.bootstrap import server as server_module
from palaver_server.config import Settings
from palaver_server.transport import server_options as transport
from palaver_server.transport import unused_connections
from tests.conftest import StartServer
from tests.support.callers import KeysFile, caller, code_of
from tests.support.client import Client, wait_until
from tests.support.contract import SERVICE_CONFIG
from tests.support.http2 import (
    DATA,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    NO_ERROR,
    PING,
    RST_STREAM,
    SETTINGS,
    Http2,
)


def request_of(size: int) -> AddMemoryRequest:
    """Return a request of this many bytes."""
    mib = 1024 * 1024
    messages = [Message(role="user", content="x" * mib) for _ in range(size // mib - 1)]
    request = AddMemoryRequest(session_id="s", messages=[*messages, Message(role="user")])
    padding = size - request.ByteSize()
    request.messages[-1].content = "x" * (padding - 8)
    request.messages[-1].content += "x" * (size - request.ByteSize())
    assert request.ByteSize() == size
    return request


@pytest.mark.slow
def test_transport_request_over_16_mib_is_refused(palaver: Client) -> None:
    most = 16 * 1024 * 1024

    added = palaver.memory.AddMemory(request_of(most))
    with pytest.raises(grpc.RpcError) as raised:
        palaver.memory.AddMemory(request_of(most + 1))

    assert len(added.messages) == 16
    assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    session = palaver.get_session("s")
    assert session.last_sequence == 16


def test_transport_unix_socket_is_served(start_server: StartServer, tmp_path: Path) -> None:
    client = start_server(listen=f"unix:{tmp_path}/palaver.sock")

    assert client.address == f"unix:{tmp_path}/palaver.sock"
    assert code_of(client) == "NOT_FOUND"


@pytest.fixture
def http2(palaver: Client) -> Iterator[Http2]:
    connection = Http2(palaver.address)
    yield connection
    connection.close()


def test_transport_connection_announces_max_concurrent_streams(http2: Http2) -> None:
    told = next(f.payload for f in http2.received() if f.kind == SETTINGS and f.payload)

    settings = dict(struct.iter_unpack(">HI", told))
    assert settings[MAX_CONCURRENT_STREAMS] == transport.MAX_CALLS_PER_CONNECTION


def test_transport_connection_announces_small_window_of_unread_requests(http2: Http2) -> None:
    told = next(f.payload for f in http2.received() if f.kind == SETTINGS and f.payload)

    settings = dict(struct.iter_unpack(">HI", told))
    assert settings[INITIAL_WINDOW_SIZE] == transport.UNREAD_BYTES_PER_CALL


def test_transport_excessive_pings_close_connection(http2: Http2) -> None:
    http2.send(PING, bytes(8), times=5)

    farewell = next(frame.payload for frame in http2.received() if frame.kind == GOAWAY)

    assert int.from_bytes(farewell[4:8], "big") == ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "settings",
    [{"connection_idle_seconds": 0.3}, {"connection_age_seconds": 0.3}],
    ids=["idle", "old"],
)
def test_transport_idle_or_old_connection_is_replaced(
    start_server: StartServer, settings: dict[str, float]
) -> None:
    palaver = start_server(**settings)
    states: list[grpc.ChannelConnectivity] = []
    palaver.channel.subscribe(states.append)

    palaver.list_sessions()
    wait_until(lambda: grpc.ChannelConnectivity.IDLE in states[1:])

    palaver.list_sessions()


def test_transport_old_connection_answers_calls_that_begin_as_it_ends(
    start_server: StartServer,
) -> None:
    old = Http2(start_server(connection_age_seconds=0.3).address)
    frames = old.received()

    farewell = next(frame.payload for frame in frames if frame.kind == GOAWAY)
    old.call("/palaver.v1.SessionService/ListSessions", b"")
    answer = [frame.kind for frame in frames if frame.stream == 1]

    assert int.from_bytes(farewell[4:8], "big") == NO_ERROR
    assert (answer[0], DATA in answer, RST_STREAM in answer) == (HEADERS, True, False)
    old.close()


def test_transport_idle_connection_is_kept_by_default() -> None:
    options = dict(server_module.connection_options(Settings.model_validate({}), 100))

    assert "grpc.max_connection_idle_ms" not in options


def test_transport_burst_of_calls_on_one_connection_is_answered(palaver: Client) -> None:
    options = [("grpc.service_config", SERVICE_CONFIG)]
    request = ListSessionsRequest(limit=1)
    with grpc.insecure_channel(palaver.address, options) as channel:
        caller = Client(channel, palaver.address)
        caller.list_sessions()

        calls = [caller.sessions.ListSessions.future(request) for _ in range(3000)]
        codes = Counter(call.code() for call in calls)

    assert codes == {grpc.StatusCode.OK: 3000}


# From above the default of gRPC's soft limit to its hard limit, gRPC refuses at random.
@pytest.mark.parametrize(
    ("size", "code"),
    [(12 * 1024, "OK"), (28 * 1024, "OK"), (33 * 1024, "RESOURCE_EXHAUSTED")],
)
def test_transport_metadata_of_a_size_is_always_treated_alike(
    palaver: Client, size: int, code: str
) -> None:
    calls = [
        palaver.sessions.ListSessions.future(
            ListSessionsRequest(limit=1), metadata=(("x-large", "x" * size),)
        )
        for _ in range(20)
    ]

    assert {call.code().name for call in calls} == {code}


def test_transport_unanswered_ping_closes_connection(start_server: StartServer) -> None:
    silent = Http2(start_server(keepalive_seconds=1).address)

    frames = [frame.kind for frame in silent.received(answers_pings=False)]

    assert frames[-2:] == [PING, GOAWAY]
    silent.close()


def test_transport_connection_that_sends_nothing_is_closed(
    start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_HANDSHAKE_TIMEOUT_SECONDS", 0.3)
    palaver = start_server(max_connections=2)
    palaver.list_sessions()
    host, _, port = palaver.address.rpartition(":")

    with socket.create_connection((host, int(port)), timeout=20) as silent:
        while silent.recv(1000):  # the server's settings come first
            pass
    palaver.list_sessions()


def test_transport_connections_over_limit_are_closed(
    start_server: StartServer,
) -> None:
    palaver = start_server(max_connections=1)
    palaver.list_sessions()

    # Without this option, all channels of a process to an address share a connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 100)]
    with grpc.insecure_channel(palaver.address, options) as channel:
        surplus = Client(channel, palaver.address)
        call = surplus.sessions.ListSessions.future(ListSessionsRequest())
        assert call.code() is grpc.StatusCode.UNAVAILABLE

        palaver.channel.close()
        surplus.sessions.ListSessions(ListSessionsRequest(), wait_for_ready=True, timeout=20)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "0.0.0.0"])
def test_transport_unauthenticated_connections_make_way_when_scarce(
    start_server: StartServer, keys_file: KeysFile, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(unused_connections, "_INTERVAL_SECONDS", 0.05)
    key = keys_file.add()
    server = start_server(
        listen=f"{host}:0", insecure=True, max_connections=10, credentials=keys_file.path
    )
    address = server.address.replace("0.0.0.0", "127.0.0.1")
    server.channel.close()
    with caller(address, key) as early:
        assert code_of(early) == "NOT_FOUND"
        states: list[grpc.ChannelConnectivity] = []
        early.channel.subscribe(states.append)

        with ExitStack() as stack:
            for _ in range(20):
                with suppress(ConnectionError):  # beyond the limit
                    stack.enter_context(closing(Http2(address)))
            with caller(address, key) as late:
                late.sessions.ListSessions(ListSessionsRequest(), wait_for_ready=True, timeout=20)

        assert code_of(early) == "NOT_FOUND"
        assert set(states) == {grpc.ChannelConnectivity.READY}


def test_transport_unauthenticated_connections_stay_while_there_is_room(
    start_server: StartServer, keys_file: KeysFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[None] = []

    class Counting(unused_connections.UnusedConnections):
        def _look(self) -> None:
            super()._look()
            looks.append(None)

    monkeypatch.setattr(unused_connections, "_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(server_module, "UnusedConnections", Counting)
    keys_file.add()
    # Fewer than descriptors, so that connections are counted.
    palaver = start_server(max_connections=20, credentials=keys_file.path)
    with closing(Http2(palaver.address)) as idle:
        seen = len(looks)
        wait_until(lambda: len(looks) > seen + 4)
        idle.send(PING, bytes(8))
        assert any(frame.kind == PING for frame in idle.received())
