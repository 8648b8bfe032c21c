"""The encodings of the database and of its connections."""

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.support.concurrency import Connection
from tests.support.palaver_process import RunPalaver, Serve

# Beyond Latin-1, and one that is a different character in it.
TEXT = "Żółw 🐢 é"


@pytest.fixture(params=["SQL_ASCII", "LATIN1", "EUC_JP"])
def strange_database_url(postgres: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a database with another encoding than UTF-8."""
    name = f"in_{request.param.lower()}"
    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{request.param}'"
            " LOCALE_PROVIDER libc LOCALE 'C'".encode()
        )
        yield make_conninfo(postgres, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@pytest.mark.parametrize("command", ["serve", "migrate"])
def test_database_of_other_encoding_is_refused_in_one_line(
    command: str, strange_database_url: str, run_palaver: RunPalaver
) -> None:
    name = str(conninfo_to_dict(strange_database_url)["dbname"])
    encoding = name.removeprefix("in_").upper()

    ended = run_palaver(command, PALAVER_DATABASE_URL=strange_database_url)

    assert ended.status == 1
    line = rf"Error: .*database {name} is {encoding}.* UTF8.*CREATE DATABASE.*pg_dump\n"
    assert re.fullmatch(line, ended.printed)


@pytest.mark.parametrize("place", ["URL", "role", "variable", "service"])
def test_client_encoding_set_elsewhere_does_not_matter(
    place: str, serve: Serve, database: Connection, database_url: str, directory: Path
) -> None:
    variables = {}
    url = database_url
    match place:
        case "URL":
            url = make_conninfo(url, client_encoding="LATIN1")
        case "role":
            name = database.info.dbname
            database.execute(f"ALTER DATABASE {name} SET client_encoding = 'LATIN1'".encode())
        case "variable":
            variables["PGCLIENTENCODING"] = "LATIN1"
        case "service":
            lines = "\n".join(f"{key}={value}" for key, value in conninfo_to_dict(url).items())
            (directory / "service").write_text(f"[db]\n{lines}\nclient_encoding=LATIN1\n")
            variables["PGSERVICEFILE"] = str(directory / "service")
            url = "service=db"

    _, client = serve(PALAVER_DATABASE_URL=url, **variables)
    client.add("s", TEXT)

    assert [message.content for message in client.get_memory("s").messages] == [TEXT]
    assert database.execute("SELECT content FROM messages").fetchall() == [(TEXT,)]
