"""`palaver migrate`, `palaver purge`, `--help` and `--version`."""

import os
import pty
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from palaver_server.config import NO_FLAG, Settings, flag
from tests.support.client import Client
from tests.support.palaver_process import RunPalaver
from tests.support.processes import ROOT, processes_in


def test_migrate_updates_database_and_reports_it(
    run_palaver: RunPalaver, empty_database_url: str
) -> None:
    first = run_palaver("migrate", PALAVER_DATABASE_URL=empty_database_url)
    second = run_palaver("migrate", PALAVER_DATABASE_URL=empty_database_url)

    assert (first.status, second.status) == (0, 0)
    assert re.search(r"^[1-9]\d* migrations? run; .*up to date$", first.printed, re.MULTILINE)
    assert re.search(r"^0 migrations run; .*up to date$", second.printed, re.MULTILINE)


def test_migrate_of_embedded_database_leaves_nothing_running(
    run_palaver: RunPalaver, data_dir: Path
) -> None:
    ended = run_palaver("migrate", "--data-dir", str(data_dir))

    assert ended.status == 0, ended.output
    assert "up to date" in ended.printed
    assert processes_in(data_dir) == []


def delete_sessions(client: Client, count: int) -> None:
    """Add sessions of two messages, and delete them."""
    for number in range(count):
        client.add(f"s{number}", "one", "two")
        client.delete_session(f"s{number}")


def test_purge_command_prints_plain_lines(run_palaver: RunPalaver, palaver: Client) -> None:
    delete_sessions(palaver, 3)

    # First nothing is old enough, then everything is.
    kept = run_palaver("purge", "--address", palaver.address, "--older-than=3600")
    ended = run_palaver("purge", PALAVER_ADDRESS=palaver.address)

    assert (kept.status, ended.status) == (0, 0)
    assert kept.printed.endswith("\npurged 0 messages, 0 sessions, 0 users\n")
    assert "\x1b" not in ended.printed
    *progress, last = ended.printed.splitlines()
    assert progress[0] == "messages 0/6, sessions 0/3, users 0/0"
    assert progress[-1] == "messages 6/6, sessions 3/3, users 0/0"
    assert last == "purged 6 messages, 3 sessions, 0 users"

    refused = run_palaver("purge", "--address", palaver.address, "--older-than=1e12")

    assert refused.status == 1
    (line,) = refused.printed.splitlines()
    assert line.startswith("Error: INVALID_ARGUMENT: older_than: ")


def test_purge_command_shows_progress_bar_on_terminal(palaver: Client) -> None:
    delete_sessions(palaver, 1)
    terminal, end = pty.openpty()

    with subprocess.Popen(
        [sys.executable, "-m", "palaver_server", "purge", "--address", palaver.address],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "PYTHONPATH": str(ROOT / "clients" / "python")},
        stdin=end,
        stdout=end,
        stderr=end,
    ) as process:
        os.close(end)
        shown = read_to_the_end(terminal)

    assert process.returncode == 0
    assert "\x1b" in shown
    shown = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", shown)
    assert re.search("messages .*━.*100%", shown)
    assert re.search("sessions .*━.*100%", shown)
    assert "purged 2 messages, 1 sessions" in shown


def read_to_the_end(terminal: int) -> str:
    shown = b""
    with os.fdopen(terminal, "rb", buffering=0) as screen:
        while True:
            try:
                shown += screen.read(4096)
            except OSError:  # the other end was closed
                return shown.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--address", "127.0.0.1:1"),
        ("--address", "no.such.host.invalid:50051"),
    ],
)
def test_purge_command_of_unreachable_server_prints_one_line(
    arguments: tuple[str, ...], run_palaver: RunPalaver
) -> None:
    ended = run_palaver("purge", *arguments)

    assert ended.status == 1
    (line,) = ended.printed.splitlines()
    assert line.startswith("Error: UNAVAILABLE: ")


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e300", "soon"])
def test_purge_command_invalid_age_is_refused(seconds: str, run_palaver: RunPalaver) -> None:
    ended = run_palaver("purge", "--older-than", seconds)

    assert ended.status == 2
    assert "Traceback" not in ended.printed
    assert re.search("^Error: .*--older-than", ended.printed, re.MULTILINE)


def test_help_names_the_variable_of_every_setting(run_palaver: RunPalaver) -> None:
    ended = run_palaver("serve", "--help")

    assert ended.status == 0
    for name in Settings.model_fields:
        assert (f"{flag(name)} " in ended.printed) == (name not in NO_FLAG)
        assert f"PALAVER_{name.upper()}" in ended.printed


def test_help_shows_choices_types_bounds_and_defaults(run_palaver: RunPalaver) -> None:
    shown = " ".join(run_palaver("serve", "-h").printed.split())

    assert "--log-level [DEBUG|INFO|WARNING|ERROR] " in shown
    assert "PALAVER_LOG_LEVEL; default: INFO]" in shown
    assert "--memory-window INTEGER " in shown
    assert "PALAVER_MEMORY_WINDOW; 1 to 1000; default: 100]" in shown
    assert "--shutdown-grace-seconds FLOAT " in shown
    assert "--tls-key PATH " in shown
    assert "PALAVER_INSECURE; default: false]" in shown


@pytest.mark.parametrize("command", [(), ("serve",), ("migrate",), ("purge",), ("keys",)])
def test_short_help_flag_prints_what_the_long_one_does(
    command: tuple[str, ...], run_palaver: RunPalaver
) -> None:
    assert run_palaver(*command, "-h") == run_palaver(*command, "--help")


def test_help_names_every_command_and_its_options(run_palaver: RunPalaver) -> None:
    commands = run_palaver("--help").printed
    purge = run_palaver("purge", "--help").printed
    migrate = run_palaver("migrate", "--help").printed

    assert all(f"\n  {command} " in commands for command in ("serve", "migrate", "purge"))
    assert all(name in purge for name in ("--address", "PALAVER_ADDRESS", "--older-than"))
    assert all(name in migrate for name in ("PALAVER_DATABASE_URL", "PALAVER_DATA_DIR"))


def test_old_flag_is_hidden_and_read_with_a_warning_unless_the_new_one_is_given(
    run_palaver: RunPalaver, tmp_path: Path
) -> None:
    refused = ("serve", "--listen=127.0.0.1:0", f"--data-dir={tmp_path / 'file'}")
    (tmp_path / "file").touch()
    old, new = "--reader-patience-seconds", "--stream-send-timeout-seconds"

    warned = run_palaver(*refused, f"{old}=1")
    bad = run_palaver(*refused, f"{old}=0")
    ignored = run_palaver(*refused, f"{old}=0", f"{new}=1")

    assert old not in run_palaver("serve", "--help").printed
    assert warned.status == 1
    assert f"{old} (PALAVER_READER_PATIENCE_SECONDS) is deprecated" in warned.logged
    assert bad.status == 2
    assert f"{new} or PALAVER_STREAM_SEND_TIMEOUT_SECONDS: must be a number" in bad.printed
    assert ignored.status == 1, "only the directory is refused"


def test_bad_setting_is_refused_with_what_is_allowed_and_given_but_no_secret(
    run_palaver: RunPalaver,
) -> None:
    ended = run_palaver(
        "serve",
        "--log-level=loud",
        "--memory-window=1001",
        PALAVER_EMBEDDER_KEY="Sesame\n",
        PALAVER_DATABASE_URL="postgresql://user:Sesame@host:port/name",
    )

    assert ended.status == 2
    assert (
        "--log-level or PALAVER_LOG_LEVEL: must be one of DEBUG, INFO, WARNING, ERROR; got LOUD\n"
    ) in ended.printed
    assert (
        "--memory-window or PALAVER_MEMORY_WINDOW: must be an integer, 1 to 1000; got 1001\n"
    ) in ended.printed
    assert "\nPALAVER_EMBEDDER_KEY: must be printable" in ended.printed
    assert "Sesame" not in ended.output


def test_version_is_version_of_package(run_palaver: RunPalaver) -> None:
    assert metadata.version("palaver-server") in run_palaver("--version").printed
