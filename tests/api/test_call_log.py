"""The call log: the line of each call, as the server's log has it in JSON."""

import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_service_pb2 import StreamMessagesRequest
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
)
from palaver_server.process.logging_setup import BurstHandler, JsonFormatter
from tests.support.client import Client, refused
from tests.support.concurrency import Connection, wait_until_blocked
from tests.support.json_log import JsonLog
from tests.support.locks import locked

MIB = 1024 * 1024


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[JsonLog]:
    """The log of the servers that the test starts."""
    written = io.StringIO()
    handler = BurstHandler(written)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("palaver_server")
    caplog.set_level(logging.INFO)
    logger.addHandler(handler)
    yield JsonLog(written.getvalue)
    logger.removeHandler(handler)


def request_id_of(call: Any) -> str:
    (request_id,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    return str(request_id)


@pytest.fixture
def blocked(
    palaver: Client, database: Connection, database_url: str
) -> Iterator[Callable[[float], Any]]:
    """Start calls, with a timeout, that wait for a lock until the test ends."""
    database.execute("INSERT INTO sessions (session_id) VALUES ('s')")

    def call(timeout: float) -> Any:
        request = DeleteSessionRequest(session_id="s")
        waiting = palaver.sessions.DeleteSession.future(request, timeout=timeout)
        wait_until_blocked(database)
        return waiting

    with locked(database_url, "s"):
        yield call


def test_call_log_line_has_all_fields(palaver: Client, log: JsonLog) -> None:
    request = AddSessionRequest(session_id="s", user_id="ada")

    response, call = palaver.sessions.AddSession.with_call(request)

    line = log.call("AddSession")
    assert line["level"] == "INFO"
    assert line["method"] == "/palaver.v1.SessionService/AddSession"
    assert line["code"] == "OK"
    assert 0 < line["duration_ms"] < 60_000
    assert line["request_bytes"] == request.ByteSize()
    assert (line["responses"], line["response_bytes"]) == (1, response.ByteSize())
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert line["request_id"] == request_id_of(call)
    assert line["time"].endswith("+00:00")


def test_call_log_of_stream_is_one_line_with_response_count(
    palaver: Client,
    log: JsonLog,
) -> None:
    palaver.add("s", *["hello"] * 5)
    call = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=2))

    responses = list(call)

    line = log.call("StreamMessages")
    assert (line["code"], line["responses"]) == ("OK", len(responses)) == ("OK", 3)
    assert line["response_bytes"] == sum(response.ByteSize() for response in responses)
    assert line["request_id"] == request_id_of(call)


def test_call_log_of_refused_call_has_its_code(palaver: Client, log: JsonLog) -> None:
    with refused(grpc.StatusCode.NOT_FOUND):
        palaver.get_session("s")

    line = log.call("GetSession")
    assert (line["code"], line["level"], line["responses"]) == ("NOT_FOUND", "INFO", 0)


def test_call_log_of_bug_has_request_id_of_caller(
    palaver: Client, log: JsonLog, database: Connection
) -> None:
    database.execute("ALTER TABLE sessions RENAME metadata TO renamed")

    with refused(grpc.StatusCode.INTERNAL) as refusal:
        palaver.sessions.GetSession(
            GetSessionRequest(session_id="s"), metadata=(("x-request-id", "from-the-caller"),)
        )

    line = log.call("GetSession")
    assert (line["code"], line["level"]) == ("INTERNAL", "WARNING")
    incident_id = refusal.detail(ErrorInfo).metadata["incident_id"]
    (incident,) = log.lines(level="ERROR")
    assert incident_id in incident["message"]
    assert incident["request_id"] == line["request_id"] == "from-the-caller"


def test_call_log_of_cancelled_call_is_cancelled(
    log: JsonLog, blocked: Callable[[float], Any]
) -> None:
    blocked(60).cancel()

    assert log.call("DeleteSession")["code"] == "CANCELLED"


@pytest.mark.parametrize("timeout", [0.2, 1.234])
def test_call_log_of_expired_call_is_deadline_exceeded(
    timeout: float, log: JsonLog, blocked: Callable[[float], Any]
) -> None:
    assert blocked(timeout).code() is grpc.StatusCode.DEADLINE_EXCEEDED

    line = log.call("DeleteSession")
    assert (line["code"], line["level"]) == ("DEADLINE_EXCEEDED", "WARNING")


@pytest.mark.slow
@pytest.mark.parametrize(("timeout", "code"), [(60, "CANCELLED"), (1, "DEADLINE_EXCEEDED")])
def test_call_log_of_abandoned_stream_is_written(
    timeout: float, code: str, palaver: Client, log: JsonLog
) -> None:
    for _ in range(3):  # far more than gRPC buffers for a reader
        palaver.add("s", *["x" * MIB] * 15)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)
    call = palaver.memory.StreamMessages(request, timeout=timeout)

    if code == "CANCELLED":
        next(call)
        call.cancel()

    line = log.call("StreamMessages")
    assert line["code"] == code
    assert line["responses"] < 45
