"""`palaver reindex`: asks a running server to rebuild its search index, and shows its progress."""

from pathlib import Path

import click
import grpc
from rich.console import Console

from palaver.v1.admin_service_pb2 import ReindexProgress, ReindexRequest, ReindexResponse
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver_server.cli.client_connection import Metadata, client_options, connect
from palaver_server.cli.progress import show_progress


@click.command()
@client_options
def reindex(address: str, **tls: Path | None) -> None:
    """Have a running server rebuild its search index.

    Run this after a change of the search language or of the embedding model, or when the log of a
    server's start asks for it.

    Set PALAVER_API_KEY to the API key or token if the server requires one, or PALAVER_API_KEY_FILE
    to a file that holds it. There is no flag for it, because other users of this machine can read
    flags.
    """
    with connect(address, **tls) as (channel, metadata):
        reindex_with_progress(channel, Console(), metadata)


def reindex_with_progress(channel: grpc.Channel, console: Console, metadata: Metadata = ()) -> None:
    """Reindex, with progress bars on a terminal and plain lines elsewhere.

    Args:
        channel: A channel to the server.
        console: Where to show the progress.
        metadata: Metadata of the call.

    Raises:
        grpc.RpcError: The call failed. The server continues work that it has started.
    """
    responses = AdminServiceStub(channel).Reindex(ReindexRequest(), metadata=metadata)
    last = show_progress(map(_progress_by_kind, responses), console)
    done = (f"{kind} of {part.done} messages" for kind, part in last.items())
    console.print("reindexed " + " and ".join(done))


def _progress_by_kind(response: ReindexResponse) -> dict[str, ReindexProgress]:
    parts = {"keywords": response.words, "vectors": response.vectors}
    return {kind: part for kind, part in parts.items() if part.estimated}
