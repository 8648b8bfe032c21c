"""Flags and variables of the commands that read settings."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palaver_server.cli.settings_schema import accepted_values
from palaver_server.config import OLD_NAMES, DatabaseSettings, flag, spelled, variable
from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger(__name__)

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

SettingsT = TypeVar("SettingsT", bound=DatabaseSettings)


def settings_options(kind: type[DatabaseSettings]) -> Callable[[CommandT], CommandT]:
    """Give a command a flag for each of its settings."""

    def decorate(command: CommandT) -> CommandT:
        for name in reversed(kind.model_fields):
            command = _option(kind, name)(command)
            if name in OLD_NAMES:
                command = click.option(flag(OLD_NAMES[name]), hidden=True)(command)
        return command

    return decorate


def _option(kind: type[DatabaseSettings], name: str) -> Callable[[CommandT], CommandT]:
    # Values stay text: pydantic parses flags and variables alike, and reports all errors at once.
    field = kind.model_fields[name]
    values = accepted_values(name)
    shown_default = str(field.default).lower() if values.metavar == "BOOLEAN" else field.default
    default = "" if shown_default in (None, "") else f"default: {shown_default}"
    notes = "; ".join(filter(None, (f"env var: {variable(name)}", values.bounds, default)))
    # `--insecure` alone stands for `--insecure=true`.
    switch: dict[str, Any] = (
        {"is_flag": False, "flag_value": "true"} if values.metavar == "BOOLEAN" else {}
    )
    return click.option(
        flag(name), metavar=values.metavar, help=f"{field.description}  [{notes}]", **switch
    )


def read_settings(kind: type[SettingsT], flags: dict[str, str | None]) -> SettingsT:
    """Read the settings of a command, flags before variables, and set up the log.

    Raises:
        click.UsageError: Settings are invalid. The error names all of them.
    """
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    for name, old_name in OLD_NAMES.items():
        if old_name in given:
            given.setdefault(name, given.pop(old_name))
    try:
        settings = kind(**given)
    except ValidationError as error:
        raise click.UsageError("\n".join(map(_describe, error.errors()))) from None
    logs.set_up(level=settings.log_level, format=settings.log_format)
    _warn_of_old_names(flags)
    return settings


def _describe(error: ErrorDetails) -> str:
    problem = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:  # a rule between several settings, whose message names them
        return problem
    name = str(error["loc"][0])
    values = accepted_values(name)
    if error["type"] != "value_error":  # pydantic's own message is about Python's types
        problem = f"must be {values}"
    given = str(error["input"])
    # The "@" of a URL may follow a password.
    got = "" if values.is_secret or "@" in given else f"; got {given or 'an empty value'}"
    old = f" (old names: {spelled(OLD_NAMES[name])})" if name in OLD_NAMES else ""
    return f"{flag(name)} or {variable(name)}: {problem}{got}{old}"


def _warn_of_old_names(flags: dict[str, str | None]) -> None:
    for name, old_name in OLD_NAMES.items():
        if flags.get(old_name) is not None or os.environ.get(variable(old_name)):
            _LOGGER.warning(
                "%s is deprecated and will be removed in the next release: use %s",
                spelled(old_name),
                spelled(name),
            )
