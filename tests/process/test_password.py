"""The password of the database's URL is printed nowhere."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.clusters import FAST
from tests.support.palaver_process import RunPalaver, Serve


def secrets(output: str) -> list[str]:
    """What is to be seen of the password, be it one of the pieces that a parser makes of it."""
    return [piece for piece in ("Open", "Sesame") if piece in output]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://palaver:OpenSesame@127.0.0.1:1/db",
        "postgresql://palaver:OpenSesame@no.such.host.invalid/db",
        "postgresql://palaver@127.0.0.1:1/db?password=OpenSesame",
        "host=127.0.0.1 port=1 user=palaver password=OpenSesame",
    ],
)
def test_password_is_hidden_while_database_is_unreachable(
    url: str, run_palaver: RunPalaver
) -> None:
    ended = run_palaver("serve", PALAVER_DATABASE_URL=url)

    assert ended.status == 1
    assert secrets(ended.output) == []


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://palaver:Open/Sesame@127.0.0.1:1/db",
        "postgresql://palaver:Open@Sesame@127.0.0.1:1/db",
        "postgresql://palaver:Open?Sesame@127.0.0.1:1/db",
        "postgresql://palaver:Open%Sesame@127.0.0.1:1/db",
        "postgresql://palaver:OpenSesame@127.0.0.1:port/db",
        "postgresql:/palaver:OpenSesame@127.0.0.1/db",
        "palaver:OpenSesame@127.0.0.1/db",
        "host=127.0.0.1 password=Open Sesame",
    ],
)
def test_password_is_hidden_in_malformed_url(url: str, run_palaver: RunPalaver) -> None:
    ended = run_palaver("serve", "--database-url", url)

    assert ended.status in {1, 2}
    assert "Traceback" not in ended.output
    assert secrets(ended.output) == []


def test_password_is_hidden_in_help(run_palaver: RunPalaver) -> None:
    url = "postgresql://palaver:OpenSesame@127.0.0.1:1/db"

    ended = run_palaver("serve", "--help", PALAVER_DATABASE_URL=url)

    assert ended.status == 0
    assert secrets(ended.output) == []


@pytest.fixture
def asking_postgres(data_dir: Path, directory: Path) -> Iterator[str]:
    """A PostgreSQL that asks everybody but its owner for a password; the URL of one it asks."""
    rules = directory / "pg_hba.conf"
    rules.write_text("local all palaver trust\nlocal all all scram-sha-256\n")
    rules.chmod(0o644)
    with (
        EmbeddedPostgres(data_dir, {**FAST, "hba_file": str(rules)}) as postgres,
        psycopg.connect(postgres.url, autocommit=True) as connection,
    ):
        connection.execute("CREATE ROLE aladdin LOGIN PASSWORD 'OpenSesame'")
        connection.execute("CREATE SCHEMA AUTHORIZATION aladdin")
        yield make_conninfo(postgres.url, user="aladdin")
        connection.execute("DROP OWNED BY aladdin CASCADE")
        connection.execute("DROP ROLE aladdin")


def test_password_is_hidden_while_serving_and_when_refused(
    serve: Serve, run_palaver: RunPalaver, asking_postgres: str
) -> None:
    right = make_conninfo(asking_postgres, password="OpenSesame")
    wrong = make_conninfo(asking_postgres, password="Open, Sesame!")

    refused = run_palaver("serve", "--database-url", wrong)
    assert refused.status == 1
    assert 'password authentication failed for user "aladdin"' in refused.printed
    assert secrets(refused.output) == []

    palaver, client = serve("--log-level=DEBUG", "--database-url", right)
    client.add("s", "hello")
    assert palaver.stop() == 0
    assert secrets(palaver.output) == []
