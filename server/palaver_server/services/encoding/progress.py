"""Encoding of the progress of maintenance tasks."""

from collections.abc import Mapping

from palaver.v1 import admin_service_pb2 as pb
from palaver_server.embedding.worker import ReindexProgress
from palaver_server.purge.purger import PurgeProgress


def purge_response(progress: PurgeProgress) -> pb.PurgeDeletedResponse:
    """Return a response of PurgeDeleted."""
    return pb.PurgeDeletedResponse(
        sessions=_purge_progress("sessions", progress),
        messages=_purge_progress("messages", progress),
        users=_purge_progress("users", progress),
    )


def _purge_progress(kind: str, progress: PurgeProgress) -> pb.PurgeProgress:
    return pb.PurgeProgress(done=progress.done[kind], estimated=progress.estimated[kind])


def reindex_response(progress: Mapping[str, ReindexProgress]) -> pb.ReindexResponse:
    """Return a response of Reindex."""
    return pb.ReindexResponse(
        **{
            kind: pb.ReindexProgress(done=part.done, estimated=part.estimated)
            for kind, part in progress.items()
        }
    )
