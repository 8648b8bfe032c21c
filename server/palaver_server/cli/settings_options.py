"""Flags and variables of the commands that read settings."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from palaver_server.config import DatabaseSettings
from palaver_server.process import logging_setup as logs

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)


def settings_options(kind: type[DatabaseSettings]) -> Callable[[CommandT], CommandT]:
    """Give a command a flag for each of its settings."""

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


def read_settings(kind: type[SettingsT], flags: dict[str, Any]) -> SettingsT:
    """Read the settings of a command, flags before variables, and set up the log.

    Raises:
        click.UsageError: Settings are invalid. The error names all of them.
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
    if not place:  # a rule between several settings, whose error names them
        return problem
    name = str(place[0])
    return f"--{name.replace('_', '-')} or PALAVER_{name.upper()}: {problem}"
