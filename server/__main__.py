"""The command line: `palaver serve`, `palaver migrate`, `palaver purge`."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import click
import grpc
import uvloop
from pydantic import ValidationError
from rich.console import Console

from server import app, purge_command
from server.config import Settings
from server.embedded import EmbeddedPostgres
from server.errors import PalaverError
from server.store import migrate as migrations
from server.store.database_url import with_patience, without_password

_LOGGER = logging.getLogger("server")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

DATABASE_SETTINGS = ("database_url", "data_dir", "log_level")


def _settings_options(*names: str) -> Callable[[CommandT], CommandT]:
    """Gives a command a flag for each of these settings."""

    def decorate(command: CommandT) -> CommandT:
        for name in reversed(names):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            default = "" if field.default is None else f"; {field.default} by default"
            variable = f"PALAVER_{name.upper()}"
            option = click.option(flag, help=f"{field.description} [{variable}{default}]")
            command = option(command)
        return command

    return decorate


def _settings(flags: dict[str, Any]) -> Settings:
    """Reads the settings, flags before variables, and sets up the log.

    Raises:
        click.UsageError: A setting is bad; all of them are named.
    """
    try:
        settings = Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [_describe(detail["loc"][0], detail["msg"]) for detail in error.errors()]
        raise click.UsageError("\n".join(lines)) from None
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s")
    return settings


def _describe(name: int | str, problem: str) -> str:
    flag, variable = str(name).replace("_", "-"), str(name).upper()
    return f"--{flag} or PALAVER_{variable}: {problem.removeprefix('Value error, ')}"


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    """Gives the URL of the database: the one that is set, or that of the embedded one."""
    if settings.database_url is not None:
        url = settings.database_url.get_secret_value()
        _LOGGER.info("database: %s", without_password(url))
        yield url
        return
    _LOGGER.info("database: embedded PostgreSQL, data in %s", settings.data_dir.absolute())
    # Until the service's loop takes the signal over, it unwinds as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    try:
        with EmbeddedPostgres(settings.data_dir) as postgres:
            yield postgres.url
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group()
@click.version_option(package_name="palaver")
def main() -> None:
    """Palaver keeps the sessions and memories of conversational apps."""


@main.command()
@_settings_options(*Settings.model_fields)
def serve(**flags: str | None) -> None:
    """Run the service, until SIGTERM or Ctrl-C."""
    settings = _settings(flags)
    with _reported_errors(), _database(settings) as url:
        uvloop.run(app.serve(settings, url))


@main.command()
@_settings_options(*DATABASE_SETTINGS)
def migrate(**flags: str | None) -> None:
    """Bring the database up to date, and end."""
    settings = _settings(flags)
    with _reported_errors(), _database(settings) as url:
        names = asyncio.run(migrations.migrate(with_patience(url)))
    click.echo(f"{len(names)} migrations run; the database is up to date")


def _age(seconds: float | None) -> timedelta | None:
    if seconds is None:
        return None
    try:
        if seconds >= 0:
            return timedelta(seconds=seconds)
    except OverflowError:
        pass
    raise click.BadParameter(f"{seconds} is no number of seconds ago")


@main.command()
@click.option(
    "--address",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="PALAVER_ADDRESS",
    show_envvar=True,
    help="Address of the running server.",
)
@click.option(
    "--older-than",
    type=float,
    callback=lambda _context, _option, value: _age(value),
    metavar="SECONDS",
    help="How long ago rows must have been deleted; by default the server's retention.",
)
def purge(address: str, older_than: timedelta | None) -> None:
    """Have a running server remove deleted rows for good."""
    try:
        with grpc.insecure_channel(address) as channel:
            purge_command.purge(channel, older_than, Console())
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {error.details()}") from None


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Ends the command with a sentence where a traceback would help nobody."""
    try:
        yield
    except (PalaverError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
