"""The call log: one line for each call, with its outcome and without its contents."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import psycopg
import pytest
from google.rpc.error_details_pb2 import ErrorInfo

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    StreamMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    GetSessionRequest,
    ListSessionsRequest,
)
from tests.support.client import Client, refused, struct
from tests.support.concurrency import Connection, wait_until_blocked
from tests.support.palaver_process import Serve
from tests.support.processes import ROOT, PalaverProcess
from tests.support.scrapes import metrics_url, scraped
from tests.support.watching import eventually

MIB = 1024 * 1024


class Log:
    """The lines of a running server's log."""

    def __init__(self, palaver: PalaverProcess) -> None:
        self._palaver = palaver

    def lines(self, **fields: Any) -> list[dict[str, Any]]:
        """Return the lines so far that have these fields, among others."""
        *whole, _ = self._palaver.output.split("\n")
        lines = [json.loads(line) for line in whole]
        return [line for line in lines if fields.items() <= line.items()]

    def call(self, name: str) -> dict[str, Any]:
        """Waits for the line of a method's only call."""

        def found() -> list[dict[str, Any]]:
            return [line for line in self.lines(message="call") if line["method"].endswith(name)]

        (line,) = eventually(found, f"{name} is logged")
        return line


@pytest.fixture
def logged(serve: Serve, database_url: str) -> tuple[Client, Log]:
    """A server that logs JSON; a client, and the log."""
    palaver, client = serve(PALAVER_DATABASE_URL=database_url, PALAVER_LOG_FORMAT="json")
    return client, Log(palaver)


def request_id_of(call: Any) -> str:
    (request_id,) = [value for key, value in call.trailing_metadata() if key == "x-request-id"]
    return str(request_id)


@pytest.fixture
def locked(database: Connection, database_url: str) -> Iterator[Callable[[Client], Any]]:
    """Start calls that wait for a lock until the test ends."""
    database.execute("INSERT INTO sessions (session_id) VALUES ('locked')")
    with psycopg.connect(database_url) as locker:
        locker.execute("SELECT FROM sessions FOR UPDATE")

        def call(client: Client, **options: Any) -> Any:
            request = DeleteSessionRequest(session_id="locked")
            waiting = client.sessions.DeleteSession.future(request, **options)
            wait_until_blocked(database)
            return waiting

        yield call


def test_call_log_line_has_all_fields(logged: tuple[Client, Log]) -> None:
    client, log = logged
    request = AddSessionRequest(session_id="s", user_id="ada")

    response, call = client.sessions.AddSession.with_call(request)

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
    logged: tuple[Client, Log],
) -> None:
    client, log = logged
    client.add("s", *["hello"] * 5)
    call = client.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=2))

    responses = list(call)

    line = log.call("StreamMessages")
    assert (line["code"], line["responses"]) == ("OK", len(responses)) == ("OK", 3)
    assert line["response_bytes"] == sum(response.ByteSize() for response in responses)
    assert line["request_id"] == request_id_of(call)


def test_call_log_of_refused_call_has_its_code(logged: tuple[Client, Log]) -> None:
    client, log = logged

    with refused(grpc.StatusCode.NOT_FOUND):
        client.get_session("s")

    line = log.call("GetSession")
    assert (line["code"], line["level"], line["responses"]) == ("NOT_FOUND", "INFO", 0)


def test_call_log_of_bug_has_request_id_of_caller(
    logged: tuple[Client, Log], database: Connection
) -> None:
    client, log = logged
    database.execute("DROP TABLE sessions")

    with refused(grpc.StatusCode.INTERNAL) as refusal:
        client.sessions.GetSession(
            GetSessionRequest(session_id="s"), metadata=(("x-request-id", "from-the-caller"),)
        )

    line = log.call("GetSession")
    assert (line["code"], line["level"]) == ("INTERNAL", "WARNING")
    incident_id = refusal.detail(ErrorInfo).metadata["incident_id"]
    (incident,) = log.lines(level="ERROR")
    assert incident_id in incident["message"]
    assert incident["request_id"] == line["request_id"] == "from-the-caller"


def test_call_log_of_cancelled_call_is_cancelled(
    logged: tuple[Client, Log], locked: Callable[..., Any]
) -> None:
    client, log = logged

    locked(client, timeout=60).cancel()

    assert log.call("DeleteSession")["code"] == "CANCELLED"


@pytest.mark.parametrize("timeout", [0.2, 1.234])
def test_call_log_of_expired_call_is_deadline_exceeded(
    timeout: float, logged: tuple[Client, Log], locked: Callable[..., Any]
) -> None:
    client, log = logged

    assert locked(client, timeout=timeout).code() is grpc.StatusCode.DEADLINE_EXCEEDED

    line = log.call("DeleteSession")
    assert (line["code"], line["level"]) == ("DEADLINE_EXCEEDED", "WARNING")


@pytest.mark.parametrize(("timeout", "code"), [(60, "CANCELLED"), (1, "DEADLINE_EXCEEDED")])
def test_call_log_of_abandoned_stream_is_written(
    timeout: float, code: str, logged: tuple[Client, Log]
) -> None:
    client, log = logged
    for _ in range(3):  # far more than gRPC buffers for a reader
        client.add("s", *["x" * MIB] * 15)
    request = StreamMessagesRequest(session_id="s", chunk_size=1)
    call = client.memory.StreamMessages(request, timeout=timeout)

    if code == "CANCELLED":
        next(call)
        call.cancel()

    line = log.call("StreamMessages")
    assert line["code"] == code
    assert line["responses"] < 45


def test_call_log_of_running_calls_is_written_at_shutdown(
    serve: Serve, database_url: str, locked: Callable[..., Any]
) -> None:
    palaver, client = serve(
        "--shutdown-grace-seconds=0.1", PALAVER_DATABASE_URL=database_url, PALAVER_LOG_FORMAT="json"
    )
    client.add("s", *["x" * 100_000] * 60)
    stream = client.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    next(stream)
    locked(client)

    assert palaver.stop() == 0

    log = Log(palaver)
    ended = {line["method"].rpartition("/")[2] for line in log.lines(message="call")}
    assert ended == {"AddMemory", "StreamMessages", "DeleteSession"}
    assert log.lines()[-1]["message"] == "stopped"


def test_call_log_shows_no_contents_metadata_passwords_or_keys(
    serve: Serve, database_url: str
) -> None:
    palaver, client = serve(
        "--metrics-listen=127.0.0.1:0",
        "--log-level=DEBUG",
        PALAVER_DATABASE_URL=f"{database_url} password=MARKER-password",
        PALAVER_LOG_FORMAT="json",
    )
    hidden = struct(plan="MARKER-value", **{"MARKER-key": 1})
    message = Message(role="MARKER-role", content="MARKER-content", metadata=hidden)
    message.message_id = "m"
    headers = [("authorization", "Bearer MARKER-token"), ("x-anything", "MARKER-header")]
    bad_path = SessionFilter(metadata='$.plan == "MARKER-path')
    nul = Message(role="user", content="MARKER-nul\0")

    def call(request: Any) -> None:
        name = type(request).__name__.removesuffix("Request")
        stub = client.sessions if hasattr(client.sessions, name) else client.memory
        getattr(stub, name)(request, metadata=headers)

    call(AddSessionRequest(session_id="s", metadata=hidden))
    call(AddMemoryRequest(session_id="s", messages=[message]))
    call(GetMemoryRequest(session_id="s"))
    call(UpdateMessageRequest(session_id="s", message_id="m", content="MARKER-update"))
    for bad in (
        ListSessionsRequest(filter=bad_path),
        AddMemoryRequest(session_id="s", messages=[nul]),
    ):
        with refused(grpc.StatusCode.INVALID_ARGUMENT):
            call(bad)
    with psycopg.connect(database_url, autocommit=True) as database:
        rule = "CHECK (content <> 'MARKER-broken') NOT VALID"
        database.execute(f"ALTER TABLE messages ADD CONSTRAINT rule {rule}")
    with refused(grpc.StatusCode.INTERNAL):
        broken = Message(role="user", content="MARKER-broken")
        call(AddMemoryRequest(session_id="s", messages=[broken]))
    metrics = scraped(metrics_url(palaver.output)).text

    assert palaver.stop() == 0
    assert palaver.output.count('"call"') == 7
    assert "MARKER" not in palaver.output
    assert "MARKER" not in metrics


def test_call_log_in_text_format_is_one_line(serve: Serve, database_url: str) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url)

    client.add("s", "hello")

    palaver.prints(r" INFO call method=/palaver.v1.MemoryService/AddMemory code=OK duration_ms=")


def printed_by(database_url: str, *, terminal: bool, **variables: str) -> str:
    """Return what `palaver migrate` prints to a terminal, or to a pipe."""
    reading, writing = os.openpty() if terminal else os.pipe()
    stubs = str(ROOT / "generated" / "python")
    try:
        subprocess.run(
            [sys.executable, "-m", "palaver_server", "migrate"],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": stubs,
                "PALAVER_DATABASE_URL": database_url,
                **variables,
            },
            stderr=writing,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        return os.read(reading, 100_000).decode()
    finally:
        os.close(reading)
        os.close(writing)


def test_log_format_is_text_on_terminal_and_json_elsewhere(database_url: str) -> None:
    for_people = printed_by(database_url, terminal=True)
    for_machines = printed_by(database_url, terminal=False)

    assert " INFO database: " in for_people.splitlines()[0]
    assert json.loads(for_machines.splitlines()[0])["message"].startswith("database: ")


def test_log_format_can_be_set(database_url: str) -> None:
    for_people = printed_by(database_url, terminal=False, PALAVER_LOG_FORMAT="text")
    for_machines = printed_by(database_url, terminal=True, PALAVER_LOG_FORMAT="json")

    assert " INFO database: " in for_people
    assert json.loads(for_machines.splitlines()[0])["level"] == "INFO"
