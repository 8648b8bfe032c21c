"""The servicer of UserService; `user_service.proto` documents its methods."""

from collections.abc import AsyncIterator
from functools import partial

from palaver.v1 import user_pb2
from palaver.v1 import user_service_pb2 as pb
from palaver_server.auth.principal import ACCESS
from palaver_server.database.paging import KeyRange
from palaver_server.offload import offload
from palaver_server.services.context import Context
from palaver_server.services.encoding.encoded import Encoded
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.services.encoding.users import user_response, with_users
from palaver_server.services.metadata_change import metadata_change
from palaver_server.services.streaming import pages
from palaver_server.services.validation import Fields
from palaver_server.store.users import UserFilter, UserRow, UserStore, blank_user


class UserService:
    """The RPCs that add, read, change and delete users.

    Args:
        max_metadata_bytes: Maximum size of metadata as JSON.
    """

    def __init__(self, users: UserStore, *, max_metadata_bytes: int) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self._users = users

    async def AddUser(self, request: pb.AddUserRequest, context: Context) -> Encoded[user_pb2.User]:
        with Fields(max_metadata_bytes=self._max_metadata_bytes) as fields:
            user_id = fields.id("user_id", request.user_id)
            email = fields.email("email", request.email)
            first_name = fields.name("first_name", request.first_name)
            last_name = fields.name("last_name", request.last_name)
            metadata = await offload(
                request.metadata.ByteSize(), fields.metadata, "metadata", request
            )
            created_at = fields.timestamp("created_at", request)
        access = ACCESS.get()
        access.check_owner(user_id)
        user = blank_user(user_id)._replace(
            email=email, first_name=first_name, last_name=last_name, metadata=metadata
        )
        return user_response(await self._users.add_user(access, user, created_at=created_at))

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> Encoded[user_pb2.User]:
        with Fields() as fields:
            user_id = fields.id("user_id", request.user_id)
        return user_response(await self._users.get_user(ACCESS.get(), user_id))

    async def UpdateUser(
        self, request: pb.UpdateUserRequest, context: Context
    ) -> Encoded[user_pb2.User]:
        with Fields(max_metadata_bytes=self._max_metadata_bytes) as fields:
            user_id = fields.id("user_id", request.user_id)
            fields.email("email", request.email)
            fields.name("first_name", request.first_name)
            fields.name("last_name", request.last_name)
            metadata = await offload(request.metadata.ByteSize(), metadata_change, fields, request)
            expected = fields.expected(request)

        def change(row: UserRow) -> UserRow:
            return row._replace(
                email=request.email if request.HasField("email") else row.email,
                first_name=(
                    request.first_name if request.HasField("first_name") else row.first_name
                ),
                last_name=request.last_name if request.HasField("last_name") else row.last_name,
                metadata=metadata.apply(row.metadata),
            )

        row = await self._users.update_user(
            ACCESS.get(), user_id, change, expected=expected, or_add=request.allow_missing
        )
        return user_response(row)

    async def DeleteUser(
        self, request: pb.DeleteUserRequest, context: Context
    ) -> pb.DeleteUserResponse:
        with Fields() as fields:
            user_id = fields.id("user_id", request.user_id)
            expected = fields.expected(request)
        deleted = await self._users.delete_user(ACCESS.get(), user_id, expected)
        return pb.DeleteUserResponse(
            deleted_at=timestamp_message(deleted.deleted_at),
            sessions_deleted=deleted.sessions_deleted,
            messages_deleted=deleted.messages_deleted,
        )

    async def ListUsers(
        self, request: pb.ListUsersRequest, context: Context
    ) -> Encoded[pb.ListUsersResponse]:
        with Fields() as fields:
            limit = fields.limit("limit", request.limit)
            cursor = fields.not_negative("cursor", request.cursor)
            narrowed = _user_filter(fields.at("filter"), request.filter)
        key_range = KeyRange.from_cursor(cursor, newest_first=request.newest_first)
        page = await self._users.list_users(ACCESS.get(), key_range, limit=limit, filter=narrowed)
        return with_users(pb.ListUsersResponse(next_cursor=page.next_cursor), page.rows)

    async def ListAllUsers(
        self, request: pb.ListAllUsersRequest, context: Context
    ) -> AsyncIterator[Encoded[pb.ListAllUsersResponse]]:
        with Fields() as fields:
            limit = fields.limit("chunk_size", request.chunk_size)
            cursor = fields.not_negative("cursor", request.cursor)
            narrowed = _user_filter(fields.at("filter"), request.filter)
        # Stop at the present end: a stream that follows fast writers would never end.
        last_id = await self._users.last_id(ACCESS.get())
        key_range = KeyRange.from_cursor(cursor, newest_first=request.newest_first).up_to(last_id)
        async for page in pages(
            partial(self._users.list_users, ACCESS.get(), limit=limit, filter=narrowed), key_range
        ):
            chunk = pb.ListAllUsersResponse(next_cursor=page.rows[-1].position)
            yield with_users(chunk, page.rows)


def _user_filter(fields: Fields, filter: user_pb2.UserFilter) -> UserFilter:
    return UserFilter(
        user_id_prefix=fields.optional_id("user_id_prefix", filter.user_id_prefix),
        user_ids=fields.ids("user_ids", filter.user_ids) or None,
        email=fields.email("email", filter.email) or None,
        metadata=fields.path("metadata", filter.metadata),
    )
