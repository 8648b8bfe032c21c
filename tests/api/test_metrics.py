"""Metrics, as scraped from a server that serves calls."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import grpc
import psycopg
import pytest

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import AddSessionRequest, DeleteSessionRequest
from palaver_server.telemetry import metrics_server
from tests.conftest import StartServer
from tests.support.callers import KeysFile
from tests.support.client import Client, refused, wait_until
from tests.support.concurrency import Connection, begin, wait_until_blocked
from tests.support.endpoint import Endpoint
from tests.support.scrapes import Scrape, metrics_url, scraped
from tests.support.tokens import AUDIENCE, ISSUER, SigningKey, key_set

SESSIONS = "palaver.v1.SessionService"

StartMeasured = Callable[..., tuple[Client, Callable[[], Scrape]]]


@pytest.fixture
def start_measured(start_server: StartServer, caplog: pytest.LogCaptureFixture) -> StartMeasured:
    """Start servers with metrics; return a client and a function that scrapes."""

    def start(**settings: Any) -> tuple[Client, Callable[[], Scrape]]:
        caplog.set_level(logging.INFO)
        client = start_server(metrics_listen="127.0.0.1:0", **settings)
        url = metrics_url(caplog.text)

        def scrape() -> Scrape:
            return scraped(url)

        return client, scrape

    return start


def when_all_calls_have_ended(scrape: Callable[[], Scrape]) -> Scrape:
    """Scrape when no call is in flight: calls are counted after their callers have the answer."""
    wait_until(lambda: scrape().value("palaver_calls_in_flight") == 0)
    return scrape()


def test_metrics_count_time_and_size_calls_by_method_and_code(
    start_measured: StartMeasured,
) -> None:
    palaver, scrape = start_measured()
    request = AddSessionRequest(session_id="s", user_id="u" * 1000)
    response = palaver.sessions.AddSession(request)
    for _ in range(3):
        palaver.get_session("s")
    for _ in range(2):
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.get_session("none")

    found = when_all_calls_have_ended(scrape)

    method = {"grpc_service": SESSIONS, "grpc_method": "GetSession", "grpc_type": "unary"}
    assert found.value("grpc_server_started_total", **method) == 5
    for code, count in (("OK", 3), ("NOT_FOUND", 2), ("INTERNAL", 0)):
        assert found.value("grpc_server_handled_total", grpc_code=code, **method) == count
    for name in ("grpc_server_handling_seconds", "palaver_request_bytes", "palaver_response_bytes"):
        assert found.value(f"{name}_count", grpc_code="OK", **method) == 3
        assert found.value(f"{name}_count", grpc_code="NOT_FOUND", **method) == 2
    added = {"grpc_service": SESSIONS, "grpc_method": "AddSession", "grpc_code": "OK"}
    assert found.value("palaver_request_bytes_sum", **added) == request.ByteSize()
    assert found.value("palaver_response_bytes_sum", **added) == response.ByteSize()
    assert found.value("palaver_request_bytes_bucket", le="1024.0", **added) == 1
    assert found.value("palaver_request_bytes_bucket", le="256.0", **added) == 0
    assert 0 < found.value("grpc_server_handling_seconds_sum", **added) < 60


MEMORY = "palaver.v1.MemoryService"


def test_metrics_stream_is_one_call_with_many_responses(start_measured: StartMeasured) -> None:
    palaver, scrape = start_measured()
    palaver.add("s", *["hello"] * 5)
    request = StreamMessagesRequest(session_id="s", chunk_size=2)
    responses = list(palaver.memory.StreamMessages(request))

    found = when_all_calls_have_ended(scrape)

    method = {
        "grpc_service": MEMORY, "grpc_method": "StreamMessages", "grpc_type": "server_stream"
    }  # fmt: skip
    assert found.value("grpc_server_handled_total", grpc_code="OK", **method) == 1
    assert found.value("grpc_server_msg_sent_total", **method) == len(responses) == 3
    size = sum(response.ByteSize() for response in responses)
    assert found.value("palaver_response_bytes_sum", **method) == size


def test_metrics_unknown_method_makes_no_series(start_measured: StartMeasured) -> None:
    palaver, scrape = start_measured()

    def series() -> int:
        return sum("grpc_method" in sample.labels for sample in scrape().samples)

    before = series()
    for number in range(20):
        for name in (f"/{SESSIONS}/Get{number}", f"/palaver.v{number}.S/Get", f"/else/{number}"):
            method: Any = palaver.channel.unary_unary(name)
            assert method.future(b"").code() is grpc.StatusCode.UNIMPLEMENTED

    assert series() == before > 0


def test_metrics_show_running_and_waiting_calls(
    start_measured: StartMeasured, database: Connection, database_url: str
) -> None:
    palaver, scrape = start_measured(pool_max_size=1)
    palaver.add("s", "hello")
    delete = DeleteSessionRequest(session_id="s")
    method = {"grpc_service": SESSIONS, "grpc_method": "DeleteSession"}

    with psycopg.connect(database_url) as locker:
        locker.execute("SELECT FROM sessions WHERE session_id = 's' FOR UPDATE")
        holding = begin(lambda: palaver.sessions.DeleteSession(delete))
        wait_until_blocked(database)
        waiting = begin(lambda: palaver.get_session("other"))
        wait_until(lambda: scrape().value("palaver_pool_requests_waiting") == 1)
        wait_until(lambda: scrape().value("palaver_calls_in_flight") == 2)
        found = scrape()
        assert found.value("palaver_calls_in_flight", **method) == 1
        assert found.value("palaver_pool_connections") == 1
        assert found.value("palaver_pool_connections_idle") == 0
    holding.result()
    with refused(grpc.StatusCode.NOT_FOUND):
        waiting.result()

    found = when_all_calls_have_ended(scrape)
    assert found.value("palaver_pool_requests_waiting") == 0
    assert found.value("palaver_pool_requests_queued_total") >= 1
    assert found.value("palaver_pool_wait_seconds_total") > 0


def test_metrics_cancelled_call_is_not_in_flight(
    start_measured: StartMeasured, database_url: str
) -> None:
    palaver, scrape = start_measured()
    palaver.add("s", "hello")
    with psycopg.connect(database_url) as locker:
        locker.execute("LOCK TABLE messages")
        stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s"))
        call = palaver.sessions.DeleteSession.future(DeleteSessionRequest(session_id="s"))
        wait_until(lambda: scrape().value("palaver_calls_in_flight") == 2)

        call.cancel()
        stream.cancel()

        found = when_all_calls_have_ended(scrape)
    for method in ("DeleteSession", "StreamMessages"):
        labels = {"grpc_method": method, "grpc_code": "CANCELLED"}
        assert found.value("grpc_server_handled_total", **labels) == 1


def test_metrics_purge_backlog_is_overdue_rows(
    start_measured: StartMeasured, database: Connection
) -> None:
    database.execute(
        """
        INSERT INTO messages (session_id, sequence, message_id, role, content, deleted_at)
        SELECT 's', i, i, 'user', 'text', CASE WHEN i > 3 THEN now() - i * interval '1 hour' END
        FROM generate_series(1, 9) i
        """
    )
    _, scrape = start_measured(purge_retention_seconds=5.5 * 3600)

    def rows(kind: str) -> float:
        return scrape().value("palaver_backlog_rows", work="purge", kind=kind)

    wait_until(lambda: bool(scrape().matching("palaver_backlog_rows")))
    assert (rows("messages"), rows("sessions")) == (4, 0)
    oldest = scrape().value("palaver_backlog_oldest_seconds", work="purge", kind="messages")
    assert 3.5 * 3600 <= oldest < 3.6 * 3600
    oldest = scrape().value("palaver_backlog_oldest_seconds", work="purge", kind="sessions")
    assert oldest == 0


@pytest.mark.vectors
def test_metrics_embedding_backlog_is_messages_without_vector(
    start_measured: StartMeasured, database: Connection, endpoint: Endpoint
) -> None:
    database.execute(
        """
        INSERT INTO messages (session_id, sequence, message_id, role, content)
        SELECT 's', i, i, 'user', 'text' FROM generate_series(1, 3) i
        """
    )
    database.execute(
        """
        INSERT INTO embedding_queue (session_id, sequence, queued_at)
        SELECT session_id, sequence, now() - sequence * interval '1 hour' FROM messages
        """
    )
    endpoint.hold()

    _, scrape = start_measured(**endpoint.settings)

    of_embedding = {"work": "embedding", "kind": "messages"}
    wait_until(lambda: bool(scrape().matching("palaver_backlog_rows", **of_embedding)))
    assert scrape().value("palaver_backlog_rows", **of_embedding) == 3
    oldest = scrape().value("palaver_backlog_oldest_seconds", **of_embedding)
    assert 3 * 3600 <= oldest < 3.1 * 3600
    endpoint.release()


def test_metrics_name_process_and_version(start_measured: StartMeasured) -> None:
    _, scrape = start_measured()

    (build,) = scrape().matching("palaver_build_info")

    assert build.value == 1
    assert set(build.labels) == {"version", "python", "grpc"}
    assert all(build.labels.values())
    assert scrape().value("process_resident_memory_bytes") > 0
    assert scrape().value("palaver_serving") == 1


def test_metrics_show_database_outage(
    start_measured: StartMeasured, postgres: str, database: Connection
) -> None:
    _, scrape = start_measured(health_interval_seconds=0.05)
    name = database.info.dbname
    assert scrape().value("palaver_serving") == 1

    with psycopg.connect(postgres, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        query = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        admin.execute(query, [name])
        wait_until(lambda: scrape().value("palaver_serving") == 0)
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')

    wait_until(lambda: scrape().value("palaver_serving") == 1)


@pytest.mark.usefixtures("quick_looks")
def test_metrics_show_unusable_credentials_and_jwt_keys(
    start_measured: StartMeasured, keys_file: KeysFile, tmp_path: Path
) -> None:
    keys_file.add()
    good = SigningKey("ES256")
    jwks = tmp_path / "jwks.json"
    jwks.write_bytes(key_set(good))
    _, scrape = start_measured(
        credentials=keys_file.path, jwt_keys=str(jwks), jwt_issuer=ISSUER, jwt_audience=AUDIENCE
    )

    def succeeded(source: str) -> float:
        return scrape().value("palaver_reload_succeeded", source=source)

    assert (succeeded("credentials"), succeeded("jwt_keys")) == (1, 1)
    assert scrape().value("palaver_jwt_keys_ignored") == 0

    keys_file.path.write_text("[[key]")
    jwks.write_bytes(key_set(good, good))

    wait_until(lambda: succeeded("credentials") == 0)
    wait_until(lambda: scrape().value("palaver_jwt_keys_ignored") == 1)
    assert succeeded("jwt_keys") == 1


@contextmanager
def slow_connections(caplog: pytest.LogCaptureFixture, count: int) -> Iterator[list[socket.socket]]:
    """Open connections to the metrics that have sent a part of a request."""
    address = urlsplit(metrics_url(caplog.text))
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            connection = socket.create_connection((address.hostname, address.port), timeout=20)
            opened.append(stack.enter_context(connection))
            connection.sendall(b"GET /metrics HTTP/1.1\r\nx-slow: ")
        yield opened


@pytest.mark.slow
def test_metrics_are_scraped_while_slow_connections_fill_the_server(
    start_measured: StartMeasured, caplog: pytest.LogCaptureFixture
) -> None:
    _, scrape = start_measured()

    with slow_connections(caplog, 3 * metrics_server.MAX_CONNECTIONS) as opened:
        for oldest in opened[: 2 * metrics_server.MAX_CONNECTIONS]:
            assert ended(oldest)
        assert scrape().value("palaver_serving") == 1


def ended(connection: socket.socket) -> bool:
    """Wait until the server ends a connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def test_metrics_slow_connection_ends_after_a_while_in_all(
    start_measured: StartMeasured,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics_server, "MAX_CONNECTION_SECONDS", 0.2)
    start_measured()

    with slow_connections(caplog, 1) as (dripping,), pytest.raises(ConnectionError):
        drip(dripping)
    assert "Traceback" not in caplog.text


def drip(connection: socket.socket) -> None:
    """Send a byte now and then until the connection ends."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        connection.sendall(b"x")
        time.sleep(0.02)


def test_metrics_are_off_without_address(
    start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    start_server()

    assert "metrics on" not in caplog.text
    assert not [one for one in threading.enumerate() if "serve_forever" in one.name]
