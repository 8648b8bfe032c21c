"""`palaver purge`: asks a running server to purge, and shows its progress."""

from datetime import timedelta
from pathlib import Path

import click
import grpc
from rich.console import Console

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver_server.cli.client_connection import Metadata, client_options, connect
from palaver_server.cli.progress import show_progress

KINDS = ("messages", "sessions", "users")


def _parse_age(
    _context: click.Context, _parameter: click.Parameter, seconds: float | None
) -> timedelta | None:
    if seconds is None:
        return None
    try:
        if seconds >= 0:
            return timedelta(seconds=seconds)
    except OverflowError:
        pass
    raise click.BadParameter(f"must be a number of seconds, 0 or more; got {seconds}")


@click.command()
@client_options
@click.option(
    "--older-than",
    type=float,
    callback=_parse_age,
    metavar="SECONDS",
    help="Purge only rows deleted at least this long ago; by default the server's retention.",
)
def purge(address: str, older_than: timedelta | None, **tls: Path | None) -> None:
    """Have a running server remove deleted rows for good.

    Set PALAVER_API_KEY to the API key or token if the server requires one, or PALAVER_API_KEY_FILE
    to a file that holds it. There is no flag for it, because other users of this machine can read
    flags.
    """
    with connect(address, **tls) as (channel, metadata):
        purge_with_progress(channel, older_than, Console(), metadata)


def purge_with_progress(
    channel: grpc.Channel,
    older_than: timedelta | None,
    console: Console,
    metadata: Metadata = (),
) -> None:
    """Purge, with progress bars on a terminal and plain lines elsewhere.

    Args:
        channel: A channel to the server.
        older_than: How long ago rows must have been deleted; None for the server's retention.
        console: Where to show the progress.
        metadata: Metadata of the call.

    Raises:
        grpc.RpcError: The call failed. Rows purged before that stay purged.
    """
    request = PurgeDeletedRequest()
    if older_than is not None:
        request.older_than.FromTimedelta(older_than)
    responses = AdminServiceStub(channel).PurgeDeleted(request, metadata=metadata)
    reports = ({kind: getattr(response, kind) for kind in KINDS} for response in responses)
    last = show_progress(reports, console)
    console.print("purged " + ", ".join(f"{last[kind].done} {kind}" for kind in KINDS))
