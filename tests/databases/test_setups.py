"""The set-ups of the database are what their names say."""

import pytest

from tests.conftest import StartServer
from tests.support.concurrency import Connection
from tests.support.database_setups import has_vectors, setup_of
from tests.support.scrapes import metrics_url, scraped
from tests.support.watching import eventually

# Major version, provider and locale.
EXPECTED = {
    "embedded": (18, "b", "C.UTF-8"),
    "embedded-c": (18, "c", "C"),
    "embedded-english": (18, "c", "en_US.UTF-8"),
    "embedded-turkish": (18, "c", "tr_TR.UTF-8"),
    "debian": (15, "c", "en_US.UTF-8"),
    "debian-c": (15, "c", "C"),
    "debian-c-utf8": (15, "c", "C.UTF-8"),
    "debian-turkish": (15, "c", "tr_TR.UTF-8"),
    "debian-icu-english": (15, "i", "en-US"),
    "debian-icu-turkish": (15, "i", "tr-TR"),
    "pgbouncer-session": (18, "b", "C.UTF-8"),
    "pgbouncer-transaction": (18, "b", "C.UTF-8"),
    "minimal-grants": (18, "b", "C.UTF-8"),
    "standby": (18, "b", "C.UTF-8"),
}

LOCALE = """
    SELECT datlocprovider::text, coalesce(d ->> 'datlocale', d ->> 'daticulocale', datcollate)
    FROM pg_database, to_jsonb(pg_database) AS d WHERE datname = current_database()
"""


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """The name of the set-up."""
    return setup_of(request.node)


def test_setup_has_the_version_and_locale_of_its_name(name: str, database: Connection) -> None:
    version = database.info.server_version // 10000

    assert (version, *(database.execute(LOCALE).fetchone() or ())) == EXPECTED[name]


def test_setup_with_a_standby_reads_from_it(
    name: str, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        client = start_server(metrics_listen="127.0.0.1:0", health_interval_seconds=0.2)
    url = metrics_url(caplog.text)

    def reads_from_standby() -> bool:
        client.list_sessions()
        return bool(scraped(url).value("palaver_reads_total", server="standby"))

    if name == "standby":
        eventually(reads_from_standby, "the standby is used")
    else:
        assert not scraped(url).matching("palaver_reads_total")


def test_setup_has_pgvector_unless_vectors_are_skipped(name: str, database: Connection) -> None:
    available = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector')"

    assert database.execute(available).fetchone() == (has_vectors(name),)
