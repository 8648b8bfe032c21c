"""The servicer of SessionService; `session_service.proto` documents its methods."""

from collections.abc import AsyncIterator
from functools import partial

from palaver.v1 import session_pb2
from palaver.v1 import session_service_pb2 as pb
from palaver_server.auth.principal import ACCESS
from palaver_server.database.paging import KeyRange
from palaver_server.offload import offload
from palaver_server.services.context import Context
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.sessions import session_response, with_sessions
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.services.limits import DEFAULT_COUNT_LIMIT, MAX_COUNT_LIMIT
from palaver_server.services.metadata_change import metadata_change
from palaver_server.services.streaming import pages
from palaver_server.services.validation import Fields
from palaver_server.store.sessions import (
    IfMissing,
    SessionFilter,
    SessionRow,
    SessionStore,
    new_ttl,
)


class SessionService:
    """The RPCs that add, read, change and delete sessions.

    Args:
        max_metadata_bytes: Maximum size of metadata as JSON.
    """

    def __init__(self, sessions: SessionStore, *, max_metadata_bytes: int) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._sessions = sessions

    async def AddSession(
        self, request: pb.AddSessionRequest, context: Context
    ) -> Encoded[session_pb2.Session]:
        with Fields(max_metadata_bytes=self._max_metadata_bytes) as fields:
            session_id = fields.id("session_id", request.session_id)
            user_id = fields.optional_id("user_id", request.user_id)
            metadata = await offload(
                request.metadata.ByteSize(), fields.metadata, "metadata", request
            )
            created_at = fields.timestamp("created_at", request)
            ttl = fields.ttl(request)
        access = ACCESS.get()
        row = await self._sessions.add_session(
            access,
            session_id,
            user_id=access.new_owner(user_id),
            metadata=metadata,
            created_at=created_at,
            user_must_exist=request.user_must_exist,
            ttl=ttl,
        )
        return session_response(row)

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> Encoded[session_pb2.Session]:
        with Fields(max_metadata_bytes=self._max_metadata_bytes) as fields:
            session_id = fields.id("session_id", request.session_id)
            user_id = fields.optional_id("user_id", request.user_id)
            metadata = await offload(request.metadata.ByteSize(), metadata_change, fields, request)
            ttl = fields.ttl(request)
            expected = fields.expected(request)
        access = ACCESS.get()
        if request.HasField("user_id"):
            access.check_owner(user_id)
        elif request.allow_missing:
            user_id = access.user_id

        def change(row: SessionRow) -> SessionRow:
            return row._replace(
                user_id=user_id if request.HasField("user_id") else row.user_id,
                metadata=metadata.apply(row.metadata),
                ttl=new_ttl(ttl, row.ttl),
            )

        row = await self._sessions.update_session(
            access,
            session_id,
            change,
            user_id=user_id,
            expected=expected,
            if_missing=IfMissing(undelete=request.undelete, add=request.allow_missing),
        )
        return session_response(row)

    async def GetSession(
        self, request: pb.GetSessionRequest, context: Context
    ) -> Encoded[session_pb2.Session]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
        return session_response(await self._sessions.get_session(ACCESS.get(), session_id))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            expected = fields.expected(request)
        deleted = await self._sessions.delete_session(ACCESS.get(), session_id, expected)
        return pb.DeleteSessionResponse(
            deleted_at=timestamp_message(deleted.deleted_at),
            messages_deleted=deleted.messages_deleted,
        )

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> Encoded[pb.ListSessionsResponse]:
        with Fields() as fields:
            limit = fields.limit("limit", request.limit)
            cursor = fields.not_negative("cursor", request.cursor)
            narrowed = _session_filter(fields.at("filter"), request.filter)
        key_range = KeyRange.from_cursor(cursor, newest_first=request.newest_first)
        page = await self._sessions.list_sessions(
            ACCESS.get(), key_range, limit=limit, filter=narrowed
        )
        return with_sessions(pb.ListSessionsResponse(next_cursor=page.next_cursor), page.rows)

    async def ListAllSessions(
        self, request: pb.ListAllSessionsRequest, context: Context
    ) -> AsyncIterator[Encoded[pb.ListAllSessionsResponse]]:
        with Fields() as fields:
            limit = fields.limit("chunk_size", request.chunk_size)
            cursor = fields.not_negative("cursor", request.cursor)
            narrowed = _session_filter(fields.at("filter"), request.filter)
        # Stop at the present end: a stream that follows fast writers would never end.
        last_id = await self._sessions.last_id(ACCESS.get())
        key_range = KeyRange.from_cursor(cursor, newest_first=request.newest_first).up_to(last_id)
        async for page in pages(
            partial(self._sessions.list_sessions, ACCESS.get(), limit=limit, filter=narrowed),
            key_range,
        ):
            chunk = pb.ListAllSessionsResponse(next_cursor=page.rows[-1].position)
            yield with_sessions(chunk, page.rows)

    async def CountSessions(
        self, request: pb.CountSessionsRequest, context: Context
    ) -> pb.CountSessionsResponse:
        with Fields() as fields:
            narrowed = _session_filter(fields.at("filter"), request.filter)
            limit = fields.limit(
                "limit", request.limit, default=DEFAULT_COUNT_LIMIT, maximum=MAX_COUNT_LIMIT
            )
        count = await self._sessions.count_sessions(ACCESS.get(), limit=limit, filter=narrowed)
        return pb.CountSessionsResponse(count=min(count, limit), has_more=count > limit)


def _session_filter(fields: Fields, filter: session_pb2.SessionFilter) -> SessionFilter:
    return SessionFilter(
        user_id=fields.optional_id("user_id", filter.user_id),
        # Stored times are whole microseconds: comparing them to a bound rounded up gives the
        # same result as comparing them to the nanosecond.
        created_after=fields.timestamp("created_after", filter, round_up=True),
        created_before=fields.timestamp("created_before", filter, round_up=True),
        updated_after=fields.timestamp("updated_after", filter, round_up=True),
        updated_before=fields.timestamp("updated_before", filter, round_up=True),
        session_id_prefix=fields.optional_id("session_id_prefix", filter.session_id_prefix),
        metadata=fields.path("metadata", filter.metadata),
    )
