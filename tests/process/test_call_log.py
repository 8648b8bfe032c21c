"""The call log: one line for each call, with its outcome and without its contents."""

import json
import os
import subprocess
import sys
from typing import Any

import grpc
import psycopg

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
    ListSessionsRequest,
)
from tests.support.client import refused, struct
from tests.support.concurrency import Connection, wait_until_blocked
from tests.support.json_log import JsonLog
from tests.support.locks import locked
from tests.support.palaver_process import Serve
from tests.support.processes import ROOT
from tests.support.scrapes import metrics_url, scraped

MIB = 1024 * 1024


def test_call_log_of_running_calls_is_written_at_shutdown(
    serve: Serve, database_url: str, database: Connection
) -> None:
    palaver, client = serve(
        "--shutdown-grace-seconds=0.1", PALAVER_DATABASE_URL=database_url, PALAVER_LOG_FORMAT="json"
    )
    client.add("s", *["x" * 100_000] * 60)
    stream = client.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    next(stream)
    with locked(database_url):
        # Referenced, since gRPC cancels a call whose future is collected.
        deletion = client.sessions.DeleteSession.future(DeleteSessionRequest(session_id="s"))
        wait_until_blocked(database)
        assert not deletion.done()

        assert palaver.stop() == 0

    log = JsonLog(lambda: palaver.output)
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
    stubs = str(ROOT / "clients" / "python")
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
