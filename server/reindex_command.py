"""`palaver reindex`: asks a running server to embed all messages, and shows how far it is."""

import grpc
from palaver.v1.admin_service_pb2 import ReindexRequest
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from rich.console import Console

from server.channel import Metadata
from server.progress_display import show_progress


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
    last = show_progress(({"messages": response} for response in responses), console)
    console.print(f"reindexed {last['messages'].done} messages")
