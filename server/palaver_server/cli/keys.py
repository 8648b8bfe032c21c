"""`palaver keys`: makes API keys."""

import click

from palaver_server.auth.api_keys import key_hash, make_key
from palaver_server.auth.credentials_file import MAX_WEIGHT, key_entry
from palaver_server.auth.principal import Principal
from palaver_server.auth.roles import Role


@click.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.name.lower() for role in Role]),
    required=True,
    help="What the key allows: reading; reading and writing; or everything, purges included.",
)
@click.option("--user-id", help="Restrict the key to the sessions of this user.")
@click.option(
    "--weight",
    type=click.IntRange(1, MAX_WEIGHT),
    default=1,
    show_default=True,
    help="How many times as much as a key of weight 1 it may use of a busy server.",
)
def keys(name: str, role: str, user_id: str | None, weight: int) -> None:
    """Make an API key for the client NAME.

    The entry for the --credentials file goes to standard output; it holds a hash of the key. The
    key itself goes to standard error and is not stored anywhere.
    """
    try:
        principal = Principal(name, Role[role.upper()], user_id, weight)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    key = make_key()
    click.echo(key_entry(principal, key_hash(key)))
    click.echo(f"The key, which is not stored anywhere: {key}", err=True)
