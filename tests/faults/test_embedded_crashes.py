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
from tests.support.processes import ROOT, embedded_url, postmaster_pid, processes_in
from tests.support.watching import eventually


def reads(postgres: EmbeddedPostgres) -> list[str]:
    """Return the notes, or None while the database is unreachable."""
    try:
        return read(postgres)
    except psycopg.OperationalError:
        return []


def accepts_connections(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True


def sleeping_postgres(directory: Path, cwd: Path) -> subprocess.Popen[bytes]:
    """Start another program under the name `postgres`."""
    program = directory / "postgres"
    shutil.copy(shutil.which("sleep") or "", program)
    return subprocess.Popen([program, "600"], cwd=cwd)


def killed_start(data_dir: Path, when: str, *, watched: bool = True) -> None:
    """Let another process start PostgreSQL on the directory, and kill it when a file appears.

    If it is not `watched`, its watchdog is killed first, so that PostgreSQL stays behind.
    """
    code = "import sys, pathlib, time\n"
    code += "from palaver_server.process.embedded_postgres import EmbeddedPostgres\n"
    code += "with EmbeddedPostgres(pathlib.Path(sys.argv[1])): time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, data_dir], cwd=ROOT) as other:
        try:
            eventually(lambda: any(data_dir.glob(when)), f"{when} is there")
            if not watched:
                children = psutil.Process(other.pid).children()
                (watchdog,) = [each for each in children if "while read" in str(each.cmdline())]
                watchdog.kill()
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
    killed_start(link, when="postgres/.s.PGSQL.5432", watched=False)
    left = psutil.Process(postmaster_pid(data_dir))
    assert left.is_running()

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)
        assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE
        assert postgres.pid == postmaster_pid(data_dir)


def test_embedded_postgres_ends_in_order_with_its_killed_server(data_dir: Path) -> None:
    log = data_dir / "postgres.log"
    log.unlink()

    killed_start(data_dir, when="postgres/.s.PGSQL.5432")

    eventually(lambda: not processes_in(data_dir), "PostgreSQL has ended")
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)
    assert "not properly shut down" not in log.read_text()


def test_embedded_postgres_initdb_ends_with_its_killed_server(directory: Path) -> None:
    killed_start(directory, when="postgres.unfinished*/PG_VERSION")

    eventually(lambda: not processes_in(directory), "initdb and its server have ended")


def test_embedded_postgres_leftover_of_a_deleted_directory_spoils_no_new_cluster(
    data_dir: Path, directory: Path
) -> None:
    deleted = directory / "deleted"
    subprocess.run(["cp", "-a", data_dir, deleted], check=True)  # with owners
    killed_start(deleted, when="postgres/.s.PGSQL.5432", watched=False)
    eventually(lambda: accepts_connections(embedded_url(deleted)), "it runs")
    shutil.rmtree(deleted)

    for _ in ("new", "again"):
        with EmbeddedPostgres(deleted, FAST) as postgres:
            write(postgres, "new")
    assert "PANIC" not in (deleted / "postgres.log").read_text()


def test_embedded_postgres_in_a_deleted_directory_is_not_restarted_in_the_next_one(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        (data_dir / "lock").unlink()
        os.kill(postgres.pid, signal.SIGKILL)

        eventually(lambda: "was deleted" in caplog.text, "the restart is refused")


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
    killed_start(directory, when="postgres.unfinished*/PG_VERSION", watched=False)

    with EmbeddedPostgres(directory, FAST) as postgres:
        write(postgres, "first")
        assert read(postgres) == ["first"]

    assert not any(directory.glob("postgres.unfinished*"))
