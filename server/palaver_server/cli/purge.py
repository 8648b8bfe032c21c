"""`palaver purge`: asks a running server to purge, and shows how far it is."""

from datetime import timedelta

import grpc
from rich.console import Console

from palaver.v1.admin_service_pb2 import PurgeDeletedRequest
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from palaver_server.cli.client_connection import Metadata
from palaver_server.cli.progress import show_progress

KINDS = ("messages", "sessions", "users")


def purge(
    channel: grpc.Channel,
    older_than: timedelta | None,
    console: Console,
    metadata: Metadata = (),
) -> None:
    """Purges, with a progress bar on a terminal, and with plain lines elsewhere.

    Args:
        channel: To the server.
        older_than: How long ago rows must have been deleted; None: the server's retention.
        console: Where to show it.
        metadata: Of the call.

    Raises:
        grpc.RpcError: The call failed; what was purged until then stays so.
    """
    request = PurgeDeletedRequest()
    if older_than is not None:
        request.older_than.FromTimedelta(older_than)
    responses = AdminServiceStub(channel).PurgeDeleted(request, metadata=metadata)
    reports = ({kind: getattr(response, kind) for kind in KINDS} for response in responses)
    last = show_progress(reports, console)
    console.print("purged " + ", ".join(f"{last[kind].done} {kind}" for kind in KINDS))
