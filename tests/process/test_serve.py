"""`palaver serve`: its data directory, its output, and its database."""

from pathlib import Path

from tests.support.concurrency import Connection
from tests.support.palaver_process import RunPalaver, Serve
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
