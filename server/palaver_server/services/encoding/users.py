"""Encoding of users."""

from collections.abc import Sequence

from palaver.v1.user_pb2 import User
from palaver_server.services.encoding import wire
from palaver_server.services.encoding.encoded import Encoded, MessageT, with_items
from palaver_server.services.encoding.metadata import struct_from_json
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.store.users import UserRow


def encode_user(row: UserRow) -> bytes:
    """Return the bytes of a `User`."""
    user = User(
        user_id=row.user_id,
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        metadata=struct_from_json(row.metadata),
        created_at=timestamp_message(row.created_at),
        updated_at=timestamp_message(row.updated_at),
        id=row.id,
        revision=row.revision,
    )
    return user.SerializeToString()


def _encode_users(rows: Sequence[UserRow]) -> list[bytes]:
    return [encode_user(row) for row in rows]


def user_response(row: UserRow) -> Encoded[User]:
    """Return the response that is a user."""
    return Encoded.of(map(encode_user, (row,)), metadata_bytes=len(row.metadata))


def with_users(response: MessageT, rows: Sequence[UserRow]) -> Encoded[MessageT]:
    """Append users to the `users` of a response."""
    metadata_bytes = sum([len(row.metadata) for row in rows])
    tag = wire.tag(type(response), "users")
    return with_items(response, tag, _encode_users, rows, metadata_bytes=metadata_bytes)
