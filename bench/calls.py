"""The calls that ghz makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any
from uuid import uuid4

from google.protobuf import message as protobuf

from bench.database import LONGS, THOUSANDS, Database
from bench.text import two_words
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    SearchMemoryRequest,
)
from palaver.v1.session_service_pb2 import GetSessionRequest

CONTENT = "The rains in Lagos end in November, and then the harmattan comes from the north. " * 2
ROLE = "user"
METADATA = {"lang": "en"}

# Requests per round; ghz repeats them when it has sent all. Every round has different ones.
_REQUESTS = 10_000
_SEARCHES = 1_000

Requests = Callable[[Database], Sequence[protobuf.Message]]


@dataclass(frozen=True, slots=True)
class Call:
    """An RPC and the requests to load it with.

    Args:
        method: Its full name.
        requests: Creates the requests of one round.
        in_flight: Calls at the same time.
        messages: Number of messages that one call adds.
        connections: Number of connections.
    """

    method: str
    requests: Requests
    in_flight: int
    messages: int = 0
    connections: int = 1


def get_session(*, in_flight: int, connections: int = 1) -> Call:
    """Get sessions spread over the whole database."""

    def requests(database: Database) -> list[GetSessionRequest]:
        return [GetSessionRequest(session_id=each) for each in database.some_sessions(_REQUESTS)]

    return Call(
        "palaver.v1.SessionService/GetSession", requests, in_flight, connections=connections
    )


def get_memory(choose: Callable[[Database], list[str]], *, in_flight: int) -> Call:
    """Get the last 10 messages of sessions."""

    def requests(database: Database) -> list[GetMemoryRequest]:
        return [GetMemoryRequest(session_id=session, last_n=10) for session in choose(database)]

    return Call("palaver.v1.MemoryService/GetMemory", requests, in_flight)


def add_memory(
    choose: Callable[[Database], list[str]],
    *,
    messages: int = 1,
    in_flight: int,
    with_ids: bool = False,
) -> Call:
    """Add messages to existing sessions, perhaps under new ids."""
    message = Message(role=ROLE, content=CONTENT)
    message.metadata.update(METADATA)

    def request(session_id: str) -> AddMemoryRequest:
        added = AddMemoryRequest(session_id=session_id, messages=[message] * messages)
        for each in added.messages if with_ids else ():
            each.message_id = str(uuid4())
        return added

    def requests(database: Database) -> list[AddMemoryRequest]:
        return [request(session_id) for session_id in choose(database)]

    return Call("palaver.v1.MemoryService/AddMemory", requests, in_flight, messages)


def search(users: Sequence[str] | None = None) -> Call:
    """Search for two words in the messages of each user in turn, or in all messages."""
    scopes: list[dict[str, Any]] = [{"user_id": user} for user in users] if users else [{}]

    def requests(_database: Database) -> list[SearchMemoryRequest]:
        return [
            SearchMemoryRequest(text=text, mode=SearchMemoryRequest.KEYWORD, **scope)
            for text, scope in zip(two_words(_SEARCHES), cycle(scopes), strict=False)
        ]

    return Call("palaver.v1.MemoryService/SearchMemory", requests, in_flight=1)


def many(database: Database) -> list[str]:
    """Return sessions spread over the whole database."""
    return database.some_sessions(_REQUESTS)


def some(database: Database) -> list[str]:
    """Return fewer sessions than `many`, for large requests."""
    return database.some_sessions(200)


def thousands(_database: Database) -> list[str]:
    """Return the sessions of 1,000 messages."""
    return THOUSANDS


def longs(_database: Database) -> list[str]:
    """Return the sessions of 100,000 messages."""
    return LONGS


def as_many_as_longs(database: Database) -> list[str]:
    """Return as many sessions of 10 messages as there are long ones."""
    return database.some_sessions(len(LONGS))
