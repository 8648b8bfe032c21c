"""`palaver purge`: asks a running server to purge, and shows how far it is."""

from collections.abc import Iterable
from datetime import timedelta

import grpc
from palaver.v1.admin_service_pb2 import PurgeDeletedRequest, PurgeDeletedResponse
from palaver.v1.admin_service_pb2_grpc import AdminServiceStub
from rich.console import Console
from rich.progress import Progress

from server.channel import Metadata

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
    if console.is_terminal:
        last = _show_bars(responses, console)
    else:
        last = _show_lines(responses, console)
    console.print("purged " + ", ".join(f"{getattr(last, k).done} {k}" for k in KINDS))


def _show_bars(responses: Iterable[PurgeDeletedResponse], console: Console) -> PurgeDeletedResponse:
    last = PurgeDeletedResponse()
    with Progress(console=console) as progress:
        bars = {kind: progress.add_task(kind, total=None) for kind in KINDS}
        for last in responses:
            for kind, bar in bars.items():
                part = getattr(last, kind)
                total = max(part.estimated, part.done)
                progress.update(bar, completed=part.done, total=total)
    return last


def _show_lines(
    responses: Iterable[PurgeDeletedResponse], console: Console
) -> PurgeDeletedResponse:
    last = PurgeDeletedResponse()
    for last in responses:
        parts = (
            f"{kind} {getattr(last, kind).done}/{getattr(last, kind).estimated}" for kind in KINDS
        )
        console.print(", ".join(parts))
    return last
