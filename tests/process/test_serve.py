"""`palaver serve`: its data directory, its output, and its database."""

import resource
import socket
from contextlib import ExitStack
from pathlib import Path

import psycopg

from tests.support.client import connected
from tests.support.concurrency import MAX_WAIT_SECONDS, Connection, begin, wait_until_blocked
from tests.support.locks import locked
from tests.support.palaver_process import RunPalaver, Serve, StartPalaver
from tests.support.processes import processes_in


def test_serve_twice_reports_address_and_shares_data(serve: Serve, directory: Path) -> None:
    data_dir = directory / "share" / "palaver"
    for run in (1, 2):
        palaver, client = serve(XDG_DATA_HOME=str(data_dir.parent))

        palaver.prints(rf"embedded PostgreSQL.*{data_dir}\n")
        palaver.prints(rf"next: grpcurl -plaintext {client.address} list\n")
        palaver.prints(r"next: \S*python\S* -m palaver_server --help\n")
        client.add("s", f"from run {run}")
        assert client.get_session("s").last_sequence == run

        assert palaver.stop() == 0
    assert processes_in(data_dir) == []


def test_serve_uses_given_database(
    serve: Serve,
    directory: Path,
    database_url: str,
    database: Connection,
) -> None:
    _, client = serve(PALAVER_DATABASE_URL=database_url)

    client.add_session("s")

    assert database.execute("SELECT session_id FROM sessions").fetchall() == [("s",)]
    assert list(directory.glob("**/PG_VERSION")) == [], "an embedded PostgreSQL was created too"


def test_serve_flag_overrides_variable(run_palaver: RunPalaver, database_url: str) -> None:
    nowhere = "postgresql://palaver@127.0.0.1:1/palaver"

    by_flag = run_palaver("migrate", "--database-url", database_url, PALAVER_DATABASE_URL=nowhere)
    by_variable = run_palaver("migrate", PALAVER_DATABASE_URL=nowhere)

    assert (by_flag.status, by_variable.status) == (0, 1)


def test_serve_keeps_file_descriptors_for_itself(
    start_palaver: StartPalaver, database_url: str
) -> None:
    palaver = start_palaver(
        "serve", "--listen=127.0.0.1:0", "--pool-min-size=1", PALAVER_DATABASE_URL=database_url
    )
    limit = 300
    resource.prlimit(palaver.process.pid, resource.RLIMIT_NOFILE, (limit // 2, limit))
    address = palaver.prints(r"listening on ([^\s\"]+)")[1]
    host, _, port = address.rpartition(":")
    palaver.prints(r"the limit of open files \(300\) leaves room for 162 connections")

    with connected(address) as client, ExitStack() as stack:
        client.add("s", "one")
        flood = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=60))
            for _ in range(limit)
        ]
        assert flood[-1].recv(100) == b""  # beyond the limit
        descriptors = palaver.workers[0].num_fds()
        assert limit // 2 < descriptors < limit - 50
        with locked(database_url, "s"):
            blocked = begin(lambda: client.add("s", "two"))
            with psycopg.connect(database_url, autocommit=True) as admin:
                wait_until_blocked(admin)
            client.get_session("s")  # over a further connection of the pool
        assert blocked.result(MAX_WAIT_SECONDS).messages[0].sequence == 2
