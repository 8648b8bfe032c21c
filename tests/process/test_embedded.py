"""The embedded PostgreSQL without crashes: directories, settings, privileges, and clean stops."""

import os
import stat
from pathlib import Path

import psutil
import pytest
from psycopg.conninfo import conninfo_to_dict

from palaver_server.errors import EmbeddedPostgresError
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.clusters import FAST, Cluster, read, setting, write
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
