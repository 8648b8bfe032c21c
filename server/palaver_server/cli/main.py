"""The command group `palaver`."""

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import click

from palaver_server.process import logging_setup as logs

_LOGGER = logging.getLogger(__name__)

# Commands with a log, which is JSON unless it goes to a terminal.
_LOGGING_COMMANDS = {"migrate", "serve"}

_COMMANDS = ("keys", "migrate", "purge", "reindex", "serve")


class _Commands(click.Group):
    """The commands, each the function of its module's name.

    A module is imported when its command runs: `serve` starts without the libraries of the
    commands that call a server.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - overrides
        **extra: Any,
    ) -> Any:
        """Run a command; where its log is JSON, its errors are lines of that log."""
        args = sys.argv[1:] if args is None else list(args)
        if not standalone_mode or not logs.is_json(_log_format(args)):
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        logs.silence_grpc()
        try:
            sys.exit(super().main(args, prog_name, complete_var, False, **extra))  # noqa: FBT003
        except click.ClickException as error:
            logs.write_json(_LOGGER, logging.ERROR, error.format_message())
            sys.exit(error.exit_code)
        except click.Abort:
            logs.write_json(_LOGGER, logging.ERROR, "interrupted")
        except Exception as error:  # noqa: BLE001 - Python would print its traceback as text
            exc_info = (type(error), error, error.__traceback__)
            logs.write_json(_LOGGER, logging.CRITICAL, "ended by an unexpected error", exc_info)
        sys.exit(1)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the help text."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or return None if there is no such command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"palaver_server.cli.{cmd_name}"), cmd_name)
        return command


def _log_format(args: Sequence[str]) -> str:
    """Return the format of the log that the arguments or the environment ask for.

    Errors in the arguments are reported in this format too, so it is found without parsing them.
    """
    command = args[0] if args else ""
    wanted = os.environ.get("PALAVER_LOG_FORMAT", "")
    for argument, following in pairwise([*args, ""]):
        flag, _, value = argument.partition("=")
        if flag == "--log-format":
            wanted = value or following
    return wanted.lower() or ("auto" if command in _LOGGING_COMMANDS else "text")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="palaver-server")
def main() -> None:
    """Store the sessions and memories of conversational apps in PostgreSQL."""
