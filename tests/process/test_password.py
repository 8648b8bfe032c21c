"""The password in the database URL is never printed."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import Client
from tests.support.clusters import FAST
from tests.support.palaver_process import RunPalaver, Serve
from tests.support.watching import eventually


def secrets(output: str) -> list[str]:
    """Return the parts of the password that a text shows, as a URL parser may split it."""
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
    ended = run_palaver("serve", PALAVER_DATABASE_URL=url)

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
    """The URL of a user whom PostgreSQL asks for a password."""
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

    refused = run_palaver("serve", PALAVER_DATABASE_URL=wrong)
    assert refused.status == 1
    assert 'password authentication failed for user "aladdin"' in refused.printed
    assert secrets(refused.output) == []

    palaver, client = serve("--log-level=DEBUG", PALAVER_DATABASE_URL=right)
    client.add("s", "hello")
    assert palaver.stop() == 0
    assert secrets(palaver.output) == []


@pytest.mark.parametrize(
    ("flag", "variables"),
    [
        ("--database-url=postgresql://palaver:OpenSesame@db/app", "PALAVER_DATABASE_URL or "),
        ("--database-url=postgresql://db/app?password=OpenSesame", "PALAVER_DATABASE_URL_FILE"),
        ("--database-url=host=db password=OpenSesame", "PALAVER_DATABASE_URL_FILE"),
        ("--database-url=postgresql://db/app?sslpassword=OpenSesame", "PALAVER_DATABASE_URL_FILE"),
        ("--embedder-key=OpenSesame", "PALAVER_EMBEDDER_KEY or PALAVER_EMBEDDER_KEY_FILE"),
        ("--embedder-url=https://me:OpenSesame@api.example/v1", "PALAVER_EMBEDDER_URL"),
        ("--jwt-keys=https://me:OpenSesame@keys.example/jwks", "PALAVER_JWT_KEYS"),
    ],
)
def test_secret_on_the_command_line_is_refused_with_the_variables_named(
    flag: str, variables: str, run_palaver: RunPalaver
) -> None:
    ended = run_palaver("serve", flag)

    assert ended.status == 2
    assert f"'{flag.partition('=')[0]}': other users of this machine can read" in ended.printed
    assert variables in ended.printed
    assert secrets(ended.output) == []


def test_key_of_the_embedder_is_no_flag_of_the_help(run_palaver: RunPalaver) -> None:
    printed = run_palaver("serve", "--help").printed

    assert "--embedder-key " not in printed
    assert "--embedder-key-file " in printed
    assert "PALAVER_EMBEDDER_KEY_FILE" in printed


def test_url_of_the_database_is_read_from_a_file(
    run_palaver: RunPalaver, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "url").write_text(f"{database_url}\n")

    ended = run_palaver("migrate", PALAVER_DATABASE_URL_FILE=str(tmp_path / "url"))

    assert ended.status == 0, ended.output


@pytest.mark.parametrize("command", ["migrate", "purge"])
def test_secret_in_two_places_or_in_an_unusable_file_is_refused_in_one_line(
    command: str, run_palaver: RunPalaver, tmp_path: Path
) -> None:
    value, file = {
        "migrate": ("PALAVER_DATABASE_URL", "PALAVER_DATABASE_URL_FILE"),
        "purge": ("PALAVER_API_KEY", "PALAVER_API_KEY_FILE"),
    }[command]
    (tmp_path / "secret").write_text("postgresql://palaver:OpenSesame@127.0.0.1:1/db\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")

    def refusal(given: str, **variables: str) -> str:
        ended = run_palaver(command, **{file: given}, **variables)
        assert ended.status in {1, 2}
        assert secrets(ended.output) == []
        line = ended.printed.partition("Error: ")[2]
        assert line.count("\n") == 1
        assert file in line
        return line

    assert "only one may be given" in refusal(
        str(tmp_path / "secret"), **{value: "postgresql://127.0.0.1:1/db"}
    )
    assert "No such file" in refusal(str(tmp_path / "missing"))
    assert "No such file" in refusal("OpenSesame"), "the secret in place of the file"
    assert "Is a directory" in refusal(str(tmp_path))
    assert "it is empty" in refusal(str(tmp_path / "empty"))
    assert "UTF-8" in refusal(str(tmp_path / "binary"))


@pytest.mark.parametrize("place", ["passfile", "service"])
def test_password_that_is_rotated_in_a_file_needs_no_restart(
    place: str, serve: Serve, asking_postgres: str, directory: Path
) -> None:
    """`aladdin` gets another password, first in the file, and connections have to be made again."""
    file = directory / place
    parts = conninfo_to_dict(asking_postgres)

    def write_password(password: str) -> None:
        text = f"*:*:*:*:{password}\n"
        if place == "service":
            lines = {**parts, "password": password}.items()
            text = "[db]\n" + "".join(f"{key}={value}\n" for key, value in lines)
        file.write_text(text)
        file.chmod(0o600)

    write_password("OpenSesame")
    if place == "passfile":
        url, variables = make_conninfo(asking_postgres, passfile=str(file)), {}
    else:
        url, variables = "service=db", {"PGSERVICEFILE": str(file)}
    _, client = serve(PALAVER_DATABASE_URL=url, **variables)
    client.add_session("s")

    write_password("Rotated")
    with psycopg.connect(make_conninfo(asking_postgres, user="palaver"), autocommit=True) as admin:
        admin.execute("ALTER ROLE aladdin PASSWORD 'Rotated'")
        admin.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE usename = 'aladdin'"
        )

    # While the health check finds its connection lost, calls may fail.
    eventually(lambda: adds(client), "a call succeeds with the new password")


def adds(client: Client) -> bool:
    """Tell whether a message can be added."""
    try:
        client.add("s", "with the new password")
    except grpc.RpcError:
        return False
    return True
