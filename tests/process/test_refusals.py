"""`palaver` refuses to start: the error messages and exit statuses."""

import re
import socket
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver_server.bootstrap import server as app
from palaver_server.config import NO_FLAG, Settings, flag, variable
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from palaver_server.transport.database_health import DatabaseHealth
from tests.conftest import Run
from tests.support.clusters import FAST, read
from tests.support.concurrency import Connection
from tests.support.palaver_process import Ended, RunPalaver, StartPalaver
from tests.support.watching import eventually

NOWHERE = "postgresql://palaver@127.0.0.1:1/palaver"

BAD_SETTINGS = {
    "database_url": "mysql://here",
    "database_url_file": "no/such/file",
    "migration_database_url": "mysql://here",
    "migration_database_url_file": "no/such/file",
    "database_wait_seconds": "-1",
    "prepared_statements": "sometimes",
    "embedder": "magic",
    "embedder_url": "here",
    "embedder_model": "m" * 257,
    "embedder_dimensions": "4001",
    "embedder_key": "a\nkey",
    "embedder_key_file": "no/such/file",
    "embedder_timeout_seconds": "0",
    "embedder_query_timeout_seconds": "0",
    "log_level": "LOUD",
    "log_format": "xml",
    "no_migrate": "maybe",
    "read_only": "maybe",
    "read_database_url": "mysql://here",
    "read_database_url_file": "no/such/file",
    "read_max_staleness_seconds": "-1",
    "listen": "nowhere",
    "workers": "0",
    "tls_certificate": "no/such/file",
    "tls_key": "no/such/file",
    "tls_client_ca": "no/such/file",
    "credentials": "no/such/file",
    "credentials_grace_seconds": "-1",
    "jwt_keys": "http://keys.example/jwks.json",
    "jwt_leeway_seconds": "301",
    "insecure": "maybe",
    "reflection": "maybe",
    "pool_min_size": "0",
    "pool_max_size": "-1",
    "pool_timeout_seconds": "soon",
    "statement_timeout_seconds": "0",
    "default_deadline_seconds": "-1",
    "max_running_calls": "0",
    "max_waiting_calls": "-1",
    "max_streams": "0",
    "max_request_bytes_in_flight": "0",
    "max_response_bytes_in_flight": "0",
    "stream_send_timeout_seconds": "0",
    "max_connections": "0",
    "keepalive_seconds": "0",
    "connection_idle_seconds": "nan",
    "connection_age_seconds": "inf",
    "connection_grace_seconds": "0",
    "max_metadata_bytes": "65535",
    "memory_window": "1001",
    "search_language": "13",
    "filter_timeout_seconds": "0",
    "search_timeout_seconds": "0",
    "purge_interval_seconds": "inf",
    "purge_retention_seconds": "1e300",
    "session_retention_seconds": "-1",
    "purge_batch_size": "0",
    "health_interval_seconds": "0",
    "shutdown_drain_seconds": "-1",
    "shutdown_grace_seconds": "nan",
    "metrics_listen": "9464",
}

# Any path and any text are valid.
NEVER_BAD = {
    "data_dir",
    "jwt_issuer",
    "jwt_audience",
    "jwt_role_claim",
    "jwt_user_id_claim",
}


def refusal(ended: Ended, *, status: int = 1) -> str:
    """Return the error messages of a refused command, without the log before them."""
    assert ended.status == status, ended.output
    assert "Traceback" not in ended.printed
    return ended.printed.partition("Error: ")[2]


@pytest.mark.parametrize("place", ["flags", "variables"])
def test_start_with_invalid_settings_names_flags_and_variables(
    place: str, run_palaver: RunPalaver
) -> None:
    if place == "flags":
        bad = {name: value for name, value in BAD_SETTINGS.items() if name not in NO_FLAG}
        flags = [f"{flag(name)}={value}" for name, value in bad.items()]
        ended = run_palaver("serve", *flags)
    else:
        bad = BAD_SETTINGS
        ended = run_palaver("serve", **{variable(name): value for name, value in bad.items()})

    named = re.findall(r"^(.*)PALAVER_(\S+): .", refusal(ended, status=2), re.MULTILINE)
    assert named == [("" if name in NO_FLAG else f"{flag(name)} or ", name.upper()) for name in bad]
    assert set(Settings.model_fields) - set(BAD_SETTINGS) == NEVER_BAD


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("name", ["--listen", "--metrics-listen"])
def test_start_on_port_in_use_is_refused_in_one_line_before_anything_is_created(
    name: str, workers: str, run_palaver: RunPalaver, directory: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        addresses = {"--listen": "127.0.0.1:0", name: address, "--workers": workers}
        flags = [part for pair in addresses.items() for part in pair]

        ended = run_palaver("serve", *flags)

    assert refusal(ended) == f"cannot listen on {address}: Address already in use\n"
    assert list(directory.iterdir()) == []


def test_start_on_data_directory_in_use_is_refused(run_palaver: RunPalaver, data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, FAST) as first:
        ended = run_palaver("serve", "--listen=127.0.0.1:0", "--data-dir", str(data_dir))

        assert str(data_dir) in refusal(ended)
        assert "first" in read(first), "the first server still works"


def test_start_on_unusable_data_directory_is_refused(
    run_palaver: RunPalaver, directory: Path
) -> None:
    (directory / "file").touch()

    ended = run_palaver("serve", "--data-dir", str(directory / "file"))

    assert str(directory / "file") in refusal(ended)


def test_start_without_reachable_database_is_refused(start_palaver: StartPalaver) -> None:
    palaver = start_palaver("serve", "--database-wait-seconds=0", PALAVER_DATABASE_URL=NOWHERE)

    assert palaver.wait() == 1
    assert re.search("^Error: .*database.*$", palaver.output, re.MULTILINE)
    assert "Traceback" not in palaver.output


def test_start_without_existing_database_is_refused_as_such(
    run_palaver: RunPalaver, database_url: str
) -> None:
    missing = make_conninfo(database_url, dbname="there_is_no_such_database")

    ended = run_palaver("serve", PALAVER_DATABASE_URL=missing)

    assert 'database "there_is_no_such_database" does not exist' in refusal(ended)


def test_start_without_right_to_create_tables_is_refused(
    run_palaver: RunPalaver, empty_database_url: str
) -> None:
    user = f"guest_of_{conninfo_to_dict(empty_database_url)['dbname']}"
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(user)))

        ended = run_palaver(
            "migrate", PALAVER_DATABASE_URL=make_conninfo(empty_database_url, user=user)
        )
        connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(user)))

    assert "permission denied for schema public" in refusal(ended)


def test_start_that_fails_half_way_leaves_no_connection(
    run: Run,
    database_url: str,
    database: Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_: DatabaseHealth) -> None:
        raise OSError("as a bug would")

    given: dict[str, Any] = {"listen": "127.0.0.1:0"}

    async def start() -> None:
        async with app.running(Settings(**given), database_url):
            pass

    connections = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    before = database.execute(connections).fetchone()
    monkeypatch.setattr(DatabaseHealth, "check", fail)
    with pytest.raises(OSError, match="as a bug would"):
        run(start())

    eventually(lambda: database.execute(connections).fetchone() == before, "the pool is closed")


@pytest.mark.parametrize("name", ["database_url", "database_url_file"])
@pytest.mark.parametrize("place", ["flag", "variable"])
def test_empty_database_url_is_refused_and_runs_no_embedded_postgres(
    name: str, place: str, run_palaver: RunPalaver, directory: Path
) -> None:
    given = ((f"{flag(name)}=",), {}) if place == "flag" else ((), {variable(name): ""})

    ended = run_palaver("serve", *given[0], **given[1])

    assert "empty" in refusal(ended, status=2)
    assert variable(name) in ended.printed
    assert not (directory / "palaver").exists()
