"""The embedded PostgreSQL after crashes of itself, of the server, and during its creation."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

from palaver_server.process import embedded_postgres as embedded
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.clusters import FAST, read, write
from tests.support.processes import ROOT, postmaster_pid, processes_in
from tests.support.watching import eventually


def reads(postgres: EmbeddedPostgres) -> list[str]:
    """Return the notes, or None while the database is unreachable."""
    try:
        return read(postgres)
    except psycopg.OperationalError:
        return []


def sleeping_postgres(directory: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Start another program under the name `postgres`."""
    program = directory / "postgres"
    shutil.copy(shutil.which("sleep") or "", program)
    return subprocess.Popen([program, "600"], cwd=cwd)


def killed_start(data_dir: Path, when: str) -> None:
    """Let another process start PostgreSQL on the directory, and kill it when a file appears."""
    code = "import sys, pathlib, time\n"
    code += "from palaver_server.process.embedded_postgres import EmbeddedPostgres\n"
    code += "with EmbeddedPostgres(pathlib.Path(sys.argv[1])): time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, data_dir], cwd=ROOT) as other:
        try:
            eventually(lambda: any(data_dir.glob(when)), f"{when} is there")
        finally:
            other.kill()


def test_embedded_postgres_killed_restarts_with_its_data(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        for number in range(3):
            write(postgres, note := f"before death {number}")
            killed = postgres.pid
            os.kill(killed, signal.SIGKILL)
            eventually(lambda: note in reads(postgres), "it is back")
            assert postgres.pid != killed

    assert processes_in(data_dir) == []


@pytest.mark.timeout(60)
def test_embedded_postgres_can_be_stopped_while_restarting(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up = threading.Event()
    look_for_leftovers = EmbeddedPostgres._stop_leftovers

    def slowly(postgres: EmbeddedPostgres) -> None:
        held_up.wait(1)
        look_for_leftovers(postgres)

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        monkeypatch.setattr(EmbeddedPostgres, "_stop_leftovers", slowly)
        os.kill(postgres.pid, signal.SIGKILL)
        eventually(lambda: "restarting it" in caplog.text, "the loss is noticed")

    assert processes_in(data_dir) == []


def test_embedded_postgres_left_running_by_killed_server_is_stopped(
    data_dir: Path, directory: Path
) -> None:
    link = directory / "link"
    link.symlink_to(data_dir)
    killed_start(link, when="postgres/.s.PGSQL.5432")
    left = psutil.Process(postmaster_pid(data_dir))
    assert left.is_running()

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)
        assert not left.is_running()
        assert postgres.pid == postmaster_pid(data_dir)


def test_embedded_postgres_leftovers_that_exit_are_ignored(
    data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftover = sleeping_postgres(directory, cwd=data_dir / "postgres")
    send_signal = psutil.Process.send_signal

    def too_late(process: psutil.Process, number: int) -> None:
        leftover.kill()
        leftover.wait()
        send_signal(process, number)

    monkeypatch.setattr(psutil.Process, "send_signal", too_late)

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)


def test_embedded_postgres_leftovers_that_do_not_listen_are_killed(
    data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_SECONDS", 0.2)
    leftover = sleeping_postgres(directory, cwd=data_dir / "postgres")
    os.kill(leftover.pid, signal.SIGSTOP)

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        monkeypatch.undo()
        assert "first" in read(postgres)
    assert leftover.wait(10) is not None


def test_embedded_postgres_stale_lock_file_leaves_other_processes_alone(
    data_dir: Path, directory: Path
) -> None:
    with sleeping_postgres(directory, cwd=directory) as other:
        lock_file = data_dir / "postgres" / "postmaster.pid"
        lock_file.write_text(f"{other.pid}\n{data_dir}/postgres\n1700000000\n5432\n\n\n\n")
        shutil.copystat(data_dir / "postgres" / "PG_VERSION", lock_file)

        with EmbeddedPostgres(data_dir, FAST) as postgres:
            assert "first" in read(postgres)

        assert other.poll() is None
        other.kill()


def test_embedded_postgres_unfinished_cluster_is_created_again(directory: Path) -> None:
    # Its initdb is not killed, and continues.
    killed_start(directory, when="postgres.unfinished*/PG_VERSION")

    with EmbeddedPostgres(directory, FAST) as postgres:
        write(postgres, "first")
        assert read(postgres) == ["first"]

    assert not any(directory.glob("postgres.unfinished*"))
