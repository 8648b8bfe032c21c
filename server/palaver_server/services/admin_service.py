"""The servicer of AdminService; `admin_service.proto` documents its methods."""

from collections.abc import AsyncIterator

from palaver.v1 import admin_service_pb2 as pb
from palaver_server.purge.purger import Purger
from palaver_server.search.reindexing import Reindexer
from palaver_server.services.context import Context
from palaver_server.services.encoding.progress import purge_response, reindex_response
from palaver_server.services.validation import Fields


class AdminService:
    """Maintenance tasks, with streams of their progress."""

    def __init__(self, purger: Purger, reindexer: Reindexer) -> None:
        self._purger = purger
        self._reindexer = reindexer

    async def PurgeDeleted(
        self, request: pb.PurgeDeletedRequest, context: Context
    ) -> AsyncIterator[pb.PurgeDeletedResponse]:
        with Fields() as fields:
            older_than = fields.duration("older_than", request)
        async for progress in self._purger.purge(older_than):
            yield purge_response(progress)

    async def Reindex(
        self, request: pb.ReindexRequest, context: Context
    ) -> AsyncIterator[pb.ReindexResponse]:
        async for progress in self._reindexer.reindex():
            yield reindex_response(progress)
