"""The command group `palaver`."""

from importlib import import_module

import click

_COMMANDS = ("keys", "migrate", "purge", "reindex", "serve")


class _Commands(click.Group):
    """The commands, each the function of its module's name.

    A module is imported when its command runs: `serve` starts without the libraries of the
    commands that call a server.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the help text."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or return None if there is no such command."""
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"palaver_server.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="palaver-server")
def main() -> None:
    """Store the sessions and memories of conversational apps in PostgreSQL."""
