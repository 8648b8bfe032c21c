"""`palaver reindex`: has a running server make words and vectors anew, and shows how far it is."""

import grpc
from rich.console import Console

from palaver.v1.admin_service_pb2 import ReindexProgress, ReindexRequest, ReindexResponse
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver_server.cli.client_connection import Metadata
from palaver_server.cli.progress import show_progress


def reindex(channel: grpc.Channel, console: Console, metadata: Metadata = ()) -> None:
    """Reindexes, with a progress bar on a terminal, and with plain lines elsewhere.

    Args:
        channel: To the server.
        console: Where to show it.
        metadata: Of the call.

    Raises:
        grpc.RpcError: The call failed; what it began goes on.
    """
    responses = AdminServiceStub(channel).Reindex(ReindexRequest(), metadata=metadata)
    last = show_progress(map(_parts, responses), console)
    console.print("reindexed " + " and ".join(f"{part.done} {kind}" for kind, part in last.items()))


def _parts(response: ReindexResponse) -> dict[str, ReindexProgress]:
    parts = {"messages' words": response.words, "messages' vectors": response.vectors}
    return {kind: part for kind, part in parts.items() if part.estimated}
