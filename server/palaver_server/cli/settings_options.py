"""Flags and variables of the commands that read settings."""

import logging
import os
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from palaver_server.cli.settings_schema import accepted_values
from palaver_server.config import (
    NO_FLAG,
    OLD_NAMES,
    DatabaseSettings,
    Settings,
    flag,
    spelled,
    variable,
)
from palaver_server.database.url import has_password
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
    if name in NO_FLAG:
        return click.option(flag(name), hidden=True, callback=_refuse_secret)
    # `--insecure` alone stands for `--insecure=true`.
    switch: dict[str, Any] = (
        {"is_flag": False, "flag_value": "true"} if values.metavar == "BOOLEAN" else {}
    )
    return click.option(
        flag(name),
        metavar=values.metavar,
        callback=_refuse_password,
        help=f"{field.description}  [{notes}]",
        **switch,
    )


def _refuse_password(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    holds_password = value is not None and (
        has_password(value)
        if (parameter.name or "").endswith("database_url")
        else "://" in value and urlsplit(value).password is not None
    )
    return _refuse_secret(context, parameter, value) if holds_password else value


def _refuse_secret(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    if value is None:
        return None
    name = parameter.name or ""
    places = [variable(each) for each in (name, f"{name}_file") if each in Settings.model_fields]
    raise click.BadParameter(
        "other users of this machine can read the secrets of a command line; set"
        f" {' or '.join(places)} instead"
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
    names = variable(name) if name in NO_FLAG else f"{flag(name)} or {variable(name)}"
    return f"{names}: {problem}{got}{old}"


def _warn_of_old_names(flags: dict[str, str | None]) -> None:
    for name, old_name in OLD_NAMES.items():
        if flags.get(old_name) is not None or os.environ.get(variable(old_name)):
            _LOGGER.warning(
                "%s is deprecated and will be removed in the next release: use %s",
                spelled(old_name),
                spelled(name),
            )
