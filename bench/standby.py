"""Reads from a hot standby."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench import servers
from bench.measurement import WrongAnswer
from bench.servers import Palaver
from bench.stage import POSTGRES_SETTINGS, Stage
from palaver_server.process.embedded_postgres import EmbeddedPostgres
from tests.support.scrapes import scraped
from tests.support.standby import copy


@contextmanager
def served(stage: Stage) -> Iterator[Palaver]:
    """Run a server over the full database that reads from a standby.

    Raises:
        WrongAnswer: The primary has run most of the reads.
    """
    database = stage.full.database
    directory = stage.directory / "standby"
    metrics = f"127.0.0.1:{servers.free_port()}"
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory)
        copy(database.url, directory)
        standby = stack.enter_context(EmbeddedPostgres(directory, POSTGRES_SETTINGS))
        url = make_conninfo(standby.url, dbname=conninfo_to_dict(database.url)["dbname"])
        settings = [f"--read-database-url={url}", f"--metrics-listen={metrics}"]
        yield stack.enter_context(servers.palaver(database, stage.log, settings=settings))
        scrape = scraped(f"http://{metrics}/metrics")
        by = {
            name: scrape.value("palaver_reads_total", server=name)
            for name in ("primary", "standby")
        }
        if by["standby"] < by["primary"]:
            raise WrongAnswer(
                f"the primary ran {by['primary']:g} reads, the standby {by['standby']:g}"
            )
