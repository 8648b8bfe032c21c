"""Every line on standard error is JSON where the log is JSON, from any source."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from palaver_server.cli.main import main
from tests.api.test_unread_responses import GET_MEMORY, STREAM_MESSAGES, unread
from tests.support.certificates import Authority
from tests.support.json_log import JsonLog
from tests.support.palaver_process import Serve, StartPalaver
from tests.support.processes import ROOT
from tests.support.watching import eventually

JSON = {"PALAVER_LOG_FORMAT": "json"}

NOWHERE = {
    "PALAVER_DATABASE_URL": "postgresql://127.0.0.1:1/x",
    "PALAVER_DATABASE_WAIT_SECONDS": "0",
}


def lines(output: str) -> list[dict[str, Any]]:
    """Parse the lines of a log."""
    parsed = [json.loads(line) for line in output.splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in parsed)
    return parsed


@pytest.mark.parametrize(
    ("arguments", "variables", "status", "message"),
    [
        (("srve",), JSON, 2, "No such command"),
        (("purge", "--older-than=soon"), JSON, 2, "not a valid float"),
        (("serve", "--no-such-flag"), JSON, 2, "No such option"),
        (("serve", "--log-format", "JSON", "--listen=x"), {}, 2, "must be HOST:PORT"),
        (("migrate", "--log-format=auto", "--data-dir=/dev/null"), {}, 1, "data directory"),
        (
            ("serve", "--listen=127.0.0.1:0", "--workers=2"),
            {**JSON, **NOWHERE},
            1,
            "127.0.0.1",
        ),
    ],
)
def test_errors_of_commands_are_json_lines(
    arguments: tuple[str, ...],
    variables: dict[str, str],
    status: int,
    message: str,
    start_palaver: StartPalaver,
) -> None:
    ended = start_palaver(*arguments, **variables)

    assert ended.wait() == status
    last = lines(ended.output)[-1]
    assert last["level"] == "ERROR"
    assert message in last["message"]


def test_failed_tls_handshakes_write_no_text(
    serve: Serve, database_url: str, tmp_path: Path
) -> None:
    Authority().issue().write(tmp_path / "server.pem", tmp_path / "server.key")
    palaver, client = serve(
        "--tls-certificate", str(tmp_path / "server.pem"),
        "--tls-key", str(tmp_path / "server.key"),
        PALAVER_DATABASE_URL=database_url, **JSON,
    )  # fmt: skip
    host, _, port = client.address.rpartition(":")

    for _ in range(3):
        with socket.create_connection((host, int(port))) as plain:
            plain.sendall(b"no TLS at all\r\n\r\n")
            plain.recv(1000)

    assert palaver.stop() == 0
    assert lines(palaver.output)


def test_clients_that_disconnect_before_their_response_cause_no_traceback(
    serve: Serve, database_url: str
) -> None:
    palaver, client = serve(PALAVER_DATABASE_URL=database_url, **JSON)
    for _ in range(3):
        client.add("s", "x" * 1_000_000)

    for _ in range(10):
        unread(client, GET_MEMORY).close()
        unread(client, STREAM_MESSAGES).close()
    log = JsonLog(lambda: palaver.output)
    eventually(lambda: len(log.lines(method=STREAM_MESSAGES[0])) == 10, "the streams have ended")

    assert palaver.stop() == 0
    assert not any("exception" in line for line in lines(palaver.output))


def test_unexpected_error_of_a_command_is_a_json_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise LookupError("as a bug would")

    monkeypatch.setattr("palaver_server.cli.serve.read_settings", fail)

    result = CliRunner(env=JSON).invoke(main, ["serve"])

    assert result.exit_code == 1
    (line,) = lines(result.stderr)
    assert line["level"] == "CRITICAL"
    assert "LookupError: as a bug would" in line["exception"]


def test_warnings_and_errors_outside_of_the_log_are_json_lines() -> None:
    program = """
import logging, threading, warnings
from palaver_server.process import logging_setup

class Broken:
    def __del__(self):
        raise LookupError("in a finalizer")

    def __str__(self):
        raise LookupError("in a record")

def fail():
    raise LookupError("in a thread")

logging_setup.set_up(level="INFO", format="json")
warnings.warn("a warning")
thread = threading.Thread(target=fail, name="worker")
thread.start()
thread.join()
logging.getLogger("a").info("%s", broken := Broken())
del broken
"""

    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    warned, thread, record, finalizer = lines(ended.stderr)
    assert "a warning" in warned["message"]
    assert thread["message"] == "thread worker ended by an unexpected error"
    assert "in a thread" in thread["exception"]
    assert "cannot log a record" in record["message"]
    assert "in a record" in record["exception"]
    assert "in a finalizer" in finalizer["exception"]
