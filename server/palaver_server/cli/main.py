"""The command line: `palaver serve` and the commands beside it.

What only some commands or settings need is imported where it is wanted: a start would take
half as long again.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
import uvloop
from pydantic import ValidationError

from palaver_server.auth.api_keys import key_hash, make_key
from palaver_server.auth.principal import Principal, Role
from palaver_server.auth.registry import key_entry
from palaver_server.bootstrap import server as app
from palaver_server.cli.client_connection import Metadata, authorization, connected
from palaver_server.config import DatabaseSettings, Settings
from palaver_server.database.url import without_password
from palaver_server.errors import PalaverError
from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger("palaver_server")

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)


def _settings_options(kind: type[DatabaseSettings]) -> Callable[[CommandT], CommandT]:
    """Gives a command a flag for each of its settings."""

    def decorate(command: CommandT) -> CommandT:
        for name, field in reversed(kind.model_fields.items()):
            flag = "--" + name.replace("_", "-")
            default = "" if field.default in (None, "") else f"; {field.default} by default"
            variable = f"PALAVER_{name.upper()}"
            # `--insecure` alone stands for `--insecure=true`.
            switch: dict[str, Any] = (
                {"is_flag": False, "flag_value": "true", "metavar": "BOOLEAN"}
                if field.annotation is bool
                else {}
            )
            option = click.option(flag, help=f"{field.description} [{variable}{default}]", **switch)
            command = option(command)
        return command

    return decorate


def _settings(kind: type[SettingsT], flags: dict[str, Any]) -> SettingsT:
    """Reads the settings of a command, flags before variables, and sets up the log.

    Raises:
        click.UsageError: A setting is bad; all of them are named.
    """
    try:
        settings = kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        lines = [_describe(detail["loc"], detail["msg"]) for detail in error.errors()]
        raise click.UsageError("\n".join(lines)) from None
    logs.set_up(level=settings.log_level, format=settings.log_format)
    return settings


def _describe(place: tuple[int | str, ...], problem: str) -> str:
    problem = problem.removeprefix("Value error, ")
    if not place:  # of several settings together, which it names
        return problem
    name = str(place[0])
    return f"--{name.replace('_', '-')} or PALAVER_{name.upper()}: {problem}"


@contextmanager
def _database(settings: DatabaseSettings) -> Iterator[str]:
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
        from palaver_server.process.embedded_postgres import EmbeddedPostgres  # noqa: PLC0415

        with EmbeddedPostgres(settings.data_dir) as postgres:
            yield postgres.url
    finally:
        signal.signal(signal.SIGTERM, before)


@click.group()
@click.version_option(package_name="palaver-server")
def main() -> None:
    """Palaver keeps the sessions and memories of conversational apps."""


@main.command()
@_settings_options(Settings)
def serve(**flags: str | None) -> None:
    """Run the service, until SIGTERM or Ctrl-C."""
    settings = _settings(Settings, flags)
    with _reported_errors(), _database(settings) as url:
        if settings.workers > 1:
            from palaver_server.bootstrap import workers  # noqa: PLC0415

            uvloop.run(workers.share(app.serve, settings, url))
        else:
            uvloop.run(app.serve(settings, url))


@main.command()
@_settings_options(DatabaseSettings)
def migrate(**flags: str | None) -> None:
    """Bring the database up to date, and end."""
    settings = _settings(DatabaseSettings, flags)
    with _reported_errors(), _database(settings) as url:
        names = asyncio.run(app.prepare(settings, url))
    click.echo(f"{len(names)} migrations run; the database is up to date")


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def _age(seconds: float | None) -> timedelta | None:
    if seconds is None:
        return None
    try:
        if seconds >= 0:
            return timedelta(seconds=seconds)
    except OverflowError:
        pass
    raise click.BadParameter(f"{seconds} is no number of seconds ago")


def _of_a_server(command: CommandT) -> CommandT:
    """Gives a command the flags that say which server to call, and how."""
    options = (
        click.option(
            "--address",
            default="127.0.0.1:50051",
            show_default=True,
            envvar="PALAVER_ADDRESS",
            show_envvar=True,
            help="Address of the running server.",
        ),
        click.option(
            "--tls-ca",
            type=_FILE,
            envvar="PALAVER_TLS_CA",
            show_envvar=True,
            help="PEM file with the authorities that the server needs a certificate of: use TLS.",
        ),
        click.option("--tls-certificate", type=_FILE, help="PEM file with a client certificate."),
        click.option(
            "--tls-key", type=_FILE, help="PEM file with the private key of the certificate."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _server(address: str, **tls: Path | None) -> Iterator[tuple[grpc.Channel, Metadata]]:
    """Gives a channel to a server, and the metadata that its calls need.

    Ends the command with the status of a call that fails.
    """
    try:
        with _reported_errors():
            metadata = authorization(
                os.environ.get("PALAVER_API_KEY"), address, by_tls=tls["tls_ca"] is not None
            )
            with connected(address, **tls) as channel:
                yield channel, metadata
    except grpc.RpcError as error:
        raise click.ClickException(f"{error.code().name}: {error.details()}") from None


@main.command()
@_of_a_server
@click.option(
    "--older-than",
    type=float,
    callback=lambda _context, _option, value: _age(value),
    metavar="SECONDS",
    help="How long ago rows must have been deleted; by default the server's retention.",
)
def purge(address: str, older_than: timedelta | None, **tls: Path | None) -> None:
    """Have a running server remove deleted rows for good.

    The variable PALAVER_API_KEY has the API key or token to do so. (No flag has it: other
    users of the machine can see those.)
    """
    from rich.console import Console  # noqa: PLC0415

    from palaver_server.cli import purge as purge_command  # noqa: PLC0415

    with _server(address, **tls) as (channel, metadata):
        purge_command.purge(channel, older_than, Console(), metadata)


@main.command()
@_of_a_server
def reindex(address: str, **tls: Path | None) -> None:
    """Have a running server make words and vectors anew, after a change of language or model.

    The variable PALAVER_API_KEY has the API key or token to do so. (No flag has it: other
    users of the machine can see those.)
    """
    from rich.console import Console  # noqa: PLC0415

    from palaver_server.cli import reindex as reindex_command  # noqa: PLC0415

    with _server(address, **tls) as (channel, metadata):
        reindex_command.reindex(channel, Console(), metadata)


@main.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in Role]),
    required=True,
    help="What the key may do: read; read and write; or all, the purge too.",
)
@click.option("--user-id", help="The one user whose sessions the key may see and touch.")
def keys(name: str, role: str, user_id: str | None) -> None:
    """Make an API key.

    The entry for the file of --credentials goes to the standard output, without the key.
    The key is shown this once.
    """
    try:
        principal = Principal(name, Role[role.upper()], user_id)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    key = make_key()
    click.echo(key_entry(principal, key_hash(key)))
    click.echo(f"The key, which is kept nowhere: {key}", err=True)


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Ends the command with a sentence where a traceback would help nobody."""
    try:
        yield
    except (PalaverError, RuntimeError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
