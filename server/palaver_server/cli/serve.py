"""`palaver serve`: runs the service."""

import click

from palaver_server.bootstrap import server, workers
from palaver_server.bootstrap.ports import check_ports
from palaver_server.cli.database import open_database
from palaver_server.cli.error_reporting import reported_errors
from palaver_server.cli.settings_options import read_settings, settings_options
from palaver_server.config import Settings


@click.command()
@settings_options(Settings)
def serve(**flags: str | None) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    settings = read_settings(Settings, flags)
    with reported_errors():
        check_ports(settings)
        with open_database(settings) as url:
            workers.run_workers(server.serve, settings, url)
