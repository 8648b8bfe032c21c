"""A start waits for an unreachable database, and fails with the reason if it stays unreachable."""

import re
import socket
from pathlib import Path

from psycopg.conninfo import make_conninfo

from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.client import connected
from tests.support.clusters import FAST
from tests.support.palaver_process import StartPalaver


def test_start_waits_for_a_database_that_is_away(
    start_palaver: StartPalaver, data_dir: Path
) -> None:
    with EmbeddedPostgres(data_dir, FAST) as postgres:
        url = postgres.url
    palaver = start_palaver("serve", "--listen=127.0.0.1:0", PALAVER_DATABASE_URL=url)
    palaver.prints("accepts no connection")

    with EmbeddedPostgres(data_dir, FAST):
        address = palaver.prints(r"listening on ([^\s\"]+)")[1]
        with connected(address) as client:
            client.add("s", "after the wait")
        palaver.stop()

    assert palaver.output.count("accepts no connection") <= 10, "one line a second at most"


def test_start_gives_up_on_a_database_that_stays_away(start_palaver: StartPalaver) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    palaver = start_palaver(
        "serve",
        "--database-wait-seconds=1.5",
        PALAVER_DATABASE_URL=f"postgresql://palaver:Sesame@127.0.0.1:{port}/x",
    )

    assert palaver.wait() == 1
    assert re.search("^Error: cannot use the database: .*refused", palaver.output, re.MULTILINE)
    assert "accepts no connection" in palaver.output
    assert "Sesame" not in palaver.output


def test_start_on_a_missing_database_does_not_wait(
    start_palaver: StartPalaver, database_url: str
) -> None:
    missing = make_conninfo(database_url, dbname="there_is_no_such_database")

    palaver = start_palaver("serve", "--database-wait-seconds=600", PALAVER_DATABASE_URL=missing)

    assert palaver.wait() == 1
    assert "accepts no connection" not in palaver.output
