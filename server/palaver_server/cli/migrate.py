"""`palaver migrate`: brings the database up to date without serving."""

import asyncio

import click

from palaver_server.bootstrap.migration import prepare_database
from palaver_server.cli.database import open_database
from palaver_server.cli.error_reporting import reported_errors
from palaver_server.cli.settings_options import read_settings, settings_options
from palaver_server.config import DatabaseSettings


@click.command()
@settings_options(DatabaseSettings)
def migrate(**flags: str | None) -> None:
    """Bring the database up to date, then exit."""
    settings = read_settings(DatabaseSettings, flags)
    with reported_errors(), open_database(settings) as url:
        names = asyncio.run(prepare_database(settings, url))
    click.echo(f"{len(names)} migrations run; the database is up to date")
