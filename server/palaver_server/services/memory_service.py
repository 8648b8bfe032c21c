"""The servicer of MemoryService; `memory_service.proto` documents its methods."""

from collections.abc import AsyncIterator
from functools import partial

from palaver.v1 import memory_pb2
from palaver.v1 import memory_service_pb2 as pb
from palaver_server.auth.principal import ACCESS
from palaver_server.database.paging import KeyRange
from palaver_server.errors import InvalidRequest
from palaver_server.offload import offload
from palaver_server.search.searcher import Searcher
from palaver_server.services.context import Context
from palaver_server.services.encoding.added_memory import added_memory_response
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.memory import memory_response
from palaver_server.services.encoding.messages import message_response, with_messages
from palaver_server.services.encoding.metadata import struct_size
from palaver_server.services.encoding.search_results import search_response
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.services.limits import MAX_ITEMS, MAX_RESPONSE_BYTES
from palaver_server.services.metadata_change import metadata_change, metadata_change_in
from palaver_server.services.search_request import search_from_request
from palaver_server.services.streaming import pages
from palaver_server.services.validation import Fields
from palaver_server.store.memory import APPEND, AddOptions, MemoryStore
from palaver_server.store.messages import MessageRow, MessageStore, Selection
from palaver_server.store.sessions import SessionRow, SessionStore, new_ttl
from palaver_server.store.window import Window


class MemoryService:
    """The RPCs that add, read, change, delete and search messages.

    Args:
        window: Number of messages that GetMemory returns by default.
        max_metadata_bytes: Maximum size of the metadata of sessions and users as JSON.
    """

    def __init__(  # noqa: PLR0913 - the stores, and settings by name
        self,
        sessions: SessionStore,
        memory: MemoryStore,
        messages: MessageStore,
        searcher: Searcher,
        *,
        window: int,
        max_metadata_bytes: int,
    ) -> None:
        self._sessions = sessions
        self._memory = memory
        self._messages = messages
        self._searcher = searcher
        self._window = window
        self._max_metadata_bytes = max_metadata_bytes

    async def AddMemory(
        self, request: pb.AddMemoryRequest, context: Context
    ) -> Encoded[pb.AddMemoryResponse]:
        with Fields(max_metadata_bytes=self._max_metadata_bytes) as fields:
            session_id = fields.id("session_id", request.session_id)
            messages = await fields.new_messages(request)
            user_id = fields.optional_id("user_id", request.user_id)
            is_append = fields.is_append(request)
            options = APPEND if is_append else await _add_options(fields, request)
        access = ACCESS.get()
        added = await self._memory.add_memory(
            access,
            session_id,
            messages,
            user_id=access.new_owner(user_id),
            options=options,
        )
        return added_memory_response(added)

    async def GetMemory(
        self, request: pb.GetMemoryRequest, context: Context
    ) -> Encoded[memory_pb2.Memory]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            last_n = fields.not_negative("last_n", request.last_n) or self._window
            window = Window(
                last_n=0 if request.no_messages else min(last_n, MAX_ITEMS),
                max_tokens=fields.not_negative("max_tokens", request.max_tokens),
                start_roles=fields.roles("start_roles", request.start_roles),
                pinned_roles=fields.roles("pinned_roles", request.pinned_roles),
                filter=fields.message_filter("filter", request),
                without_payload=request.without_payload,
            )
        memory = await self._memory.get_memory(
            ACCESS.get(),
            session_id,
            window,
            with_session=request.return_session,
            with_total=request.total_count,
        )
        return memory_response(session_id, memory)

    async def DeleteMemory(
        self, request: pb.DeleteMemoryRequest, context: Context
    ) -> pb.DeleteMemoryResponse:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            expected = fields.expected(request)
        deleted = await self._sessions.delete_session(ACCESS.get(), session_id, expected)
        return pb.DeleteMemoryResponse(
            deleted_at=timestamp_message(deleted.deleted_at),
            messages_deleted=deleted.messages_deleted,
        )

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> Encoded[pb.ListMessagesResponse]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            limit = fields.limit("limit", request.limit)
            cursor = fields.not_negative("cursor", request.cursor)
            passing = fields.message_filter("filter", request)
        key_range = KeyRange.from_cursor(cursor, newest_first=request.newest_first)
        page = await self._messages.list_messages(
            ACCESS.get(),
            session_id,
            key_range,
            limit=limit,
            filter=passing,
            without_payload=request.without_payload,
        )
        return with_messages(pb.ListMessagesResponse(next_cursor=page.next_cursor), page.rows)

    async def StreamMessages(
        self, request: pb.StreamMessagesRequest, context: Context
    ) -> AsyncIterator[Encoded[pb.StreamMessagesResponse]]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            limit = fields.limit("chunk_size", request.chunk_size)
            cursor = fields.not_negative("cursor", request.cursor)
            passing = fields.message_filter("filter", request)
        access = ACCESS.get()
        # Stop at the present end: a stream that follows fast writers would never end.
        session = await self._sessions.get_session(access, session_id)
        key_range = KeyRange.from_cursor(cursor).up_to(session.last_sequence)
        list_messages = partial(
            self._messages.list_messages,
            access,
            session_id,
            limit=limit,
            filter=passing,
            without_payload=request.without_payload,
        )
        async for page in pages(list_messages, key_range):
            chunk = pb.StreamMessagesResponse(next_cursor=page.rows[-1].position)
            yield with_messages(chunk, page.rows)

    async def GetMessage(
        self, request: pb.GetMessageRequest, context: Context
    ) -> Encoded[memory_pb2.Message]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            message_id = fields.id("message_id", request.message_id)
        return message_response(
            await self._messages.get_message(
                ACCESS.get(), session_id, message_id, without_payload=request.without_payload
            )
        )

    async def UpdateMessage(
        self, request: pb.UpdateMessageRequest, context: Context
    ) -> Encoded[memory_pb2.Message]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            message_id = fields.id("message_id", request.message_id)
            if request.HasField("role"):
                fields.role("role", request.role)
            fields.content("content", request.content)
            fields.not_negative("token_count", request.token_count)
            fields.payload("payload", request.payload)
            fields.payload_type("payload_type", request.payload_type)
            metadata = await offload(request.metadata.ByteSize(), metadata_change, fields, request)
            expected = fields.expected(request)

        def change(row: MessageRow) -> MessageRow:
            given = {
                name: getattr(request, name)
                for name in ("role", "content", "token_count")
                if request.HasField(name)
            }
            for name in ("payload", "payload_type"):
                if request.HasField(name):
                    given[name] = getattr(request, name) or None
            changed = row._replace(**given, metadata=metadata.apply(row.metadata))
            with Fields() as checked:
                checked.message_size(_enlarged(request), _size(changed))
            return changed

        row = await self._messages.update_message(
            ACCESS.get(), session_id, message_id, change, expected
        )
        return message_response(row._replace(payload=None) if request.without_payload else row)

    async def DeleteMessages(
        self, request: pb.DeleteMessagesRequest, context: Context
    ) -> Encoded[pb.DeleteMessagesResponse]:
        with Fields() as fields:
            session_id = fields.id("session_id", request.session_id)
            selection = _selection(fields, request)
            expected = fields.expected(request)
        data = b""

        async def check(rows: list[MessageRow]) -> None:
            nonlocal data
            data += await with_messages(pb.DeleteMessagesResponse(), rows).encode()
            if len(data) > MAX_RESPONSE_BYTES:
                raise InvalidRequest(selection.too_large())

        await self._messages.delete_messages(
            ACCESS.get(),
            session_id,
            selection,
            check,
            expected,
            without_payload=request.without_payload,
        )
        return Encoded(data)

    async def SearchMemory(
        self, request: pb.SearchMemoryRequest, context: Context
    ) -> Encoded[pb.SearchMemoryResponse]:
        with Fields() as fields:
            search = search_from_request(fields, request)
        return search_response(await self._searcher.search(ACCESS.get(), search))


async def _add_options(fields: Fields, request: pb.AddMemoryRequest) -> AddOptions:
    """Check what a request asks for besides appending messages."""
    size = request.session_metadata.ByteSize() + request.user_metadata.ByteSize()
    session, user = await offload(
        size,
        lambda: [
            metadata_change_in(fields, request, field)
            for field in ("session_metadata", "user_metadata")
        ],
    )
    ttl = fields.ttl(request)

    def change_session(row: SessionRow) -> SessionRow:
        return row._replace(
            metadata=session.apply(row.metadata) if session else row.metadata,
            ttl=new_ttl(ttl, row.ttl),
        )

    return AddOptions(
        expected=fields.expected(request),
        session_must_exist=request.session_must_exist,
        change_session=None if session is None and ttl is None else change_session,
        change_user=user and user.apply,
        replaces=request.replace_messages,
        with_session=request.return_session,
    )


def _size(row: MessageRow) -> int:
    """Return the size of a message's content, payload and encoded metadata."""
    if row.payload is None:  # then it is never too large
        return 0
    return len(row.content.encode()) + len(row.payload) + struct_size(row.metadata)


def _enlarged(request: pb.UpdateMessageRequest) -> str:
    """Return the field that makes a message too large."""
    if request.HasField("payload"):
        return "payload"
    return "content" if request.HasField("content") else "metadata"


def _selection(fields: Fields, request: pb.DeleteMessagesRequest) -> Selection:
    """Check that a request selects messages in one way, and return the selection."""
    selection = Selection(request.message_ids, request.first_n, request.last_n)
    for field in ("first_n", "last_n"):
        if field != selection.field and getattr(request, field):
            fields.reject(field, f"must be 0 if {selection.field} is given")
    if selection.field != "message_ids":
        fields.count(selection.field, getattr(request, selection.field))
    return selection._replace(message_ids=fields.ids("message_ids", request.message_ids))
