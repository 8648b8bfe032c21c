"""A call of each RPC that reads."""

from collections.abc import Callable
from typing import TypeAlias

from palaver.v1.memory_pb2 import Message
from tests.support.client import Client, struct
from tests.support.searching import found

Read: TypeAlias = Callable[[Client, str], object]

# Each call finds what `fill` added.
READS: dict[str, Read] = {
    "GetSession": lambda client, name: client.get_session(name),
    "ListSessions": lambda client, name: client.session_ids(metadata=f'$.name == "{name}"'),
    "CountSessions": lambda client, name: client.count_sessions(user_id=name).count,
    "ListAllSessions": lambda client, name: client.list_all_sessions(filter={"user_id": name}),
    "GetMemory": lambda client, name: client.contents(name),
    "ListMessages": lambda client, name: client.list_messages(name).messages,
    "StreamMessages": lambda client, name: client.stream_messages(name),
    "GetMessage": lambda client, name: client.get_message(name, name),
    "SearchMemory": lambda client, name: found(client, name, session_id=name),
    "GetUser": lambda client, name: client.get_user(name),
    "ListUsers": lambda client, name: name in str(client.list_users(newest_first=True)),
    "ListAllUsers": lambda client, name: name in str(client.list_all_users(newest_first=True)),
}


def fill(client: Client, name: str) -> None:
    """Add a user, a session of that user and a message in it, all with this id."""
    client.add_user(name)
    client.add_session(name, user_id=name, metadata=struct(name=name))
    client.add_memory(name, [Message(message_id=name, role="user", content=name)])
