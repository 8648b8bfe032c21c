"""Encoding of users."""

from palaver.v1.user_pb2 import User
from palaver_server.services.encoding.metadata import struct_from_json
from palaver_server.services.encoding.timestamps import timestamp_message
from palaver_server.store.users import UserRow


def user_message(row: UserRow) -> User:
    """Return the `User` of a row."""
    return User(
        user_id=row.user_id,
        email=row.email,
        first_name=row.first_name,
        last_name=row.last_name,
        metadata=struct_from_json(row.metadata),
        created_at=timestamp_message(row.created_at),
        updated_at=timestamp_message(row.updated_at),
        id=row.id,
    )
