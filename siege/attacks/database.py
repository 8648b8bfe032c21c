"""Legal calls that are slow in the database, and hold its connections meanwhile."""

from collections.abc import Awaitable, Callable

from google.protobuf.message import Message as Request
from grpc.aio import Channel

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    GetMemoryRequest,
    MessageFilter,
    SearchMemoryRequest,
)
from palaver.v1.session_pb2 import SessionFilter
from palaver.v1.session_service_pb2 import ListSessionsRequest
from palaver.v1.user_service_pb2 import DeleteUserRequest
from siege import stock
from siege.attacker import Attacker, in_parallel

_PARALLEL = 50

# A back reference makes PostgreSQL's regular expressions backtrack.
_BACK_REFERENCES = r'exists($.** ? (@ like_regex "^(.*)(.*)(.*)\\1\\2\\3no such$"))'


async def slow_filters(attacker: Attacker) -> None:
    """List sessions by a path that visits all of their metadata many times."""
    await _list_sessions(attacker, "exists($.** ? (exists($.** ? (exists(@.** ? (@ == 1.5))))))")


async def regular_expressions(attacker: Attacker) -> None:
    """List sessions by a regular expression that backtracks."""
    await _list_sessions(attacker, _BACK_REFERENCES)


async def slow_searches(attacker: Attacker) -> None:
    """Search for a word that all large messages have, with a filter, and diversity."""
    request = SearchMemoryRequest(
        text=f"{stock.WORD} -nothing",
        limit=100,
        diversity=0.9,
        mode=SearchMemoryRequest.KEYWORD,
        filter=MessageFilter(metadata=_BACK_REFERENCES),
    )
    await _repeat(attacker, "MemoryService/SearchMemory", request)


async def searches(attacker: Attacker) -> None:
    """Search in the default mode, which asks the embedder."""
    request = SearchMemoryRequest(text=stock.WORD)
    await _repeat(attacker, "MemoryService/SearchMemory", request)


async def large_reads(attacker: Attacker) -> None:
    """Read the largest responses, as fast as they come."""
    request = GetMemoryRequest(session_id=stock.LARGE_SESSION, last_n=1000)
    await _repeat(attacker, "MemoryService/GetMemory", request)


async def deletes_of_one_user(attacker: Attacker) -> None:
    """Delete a user, and add to one of the user's sessions, all at the same time."""
    delete = DeleteUserRequest(user_id="besieged")

    async def add_and_delete(channel: Channel) -> None:
        message = Message(role="user", content=stock.unique_word())
        add = AddMemoryRequest(session_id="besieged", user_id="besieged", messages=[message])
        await attacker.call(channel, "MemoryService/AddMemory", add)
        await attacker.call(channel, "UserService/DeleteUser", delete)

    await _in_parallel(attacker, add_and_delete)


async def _list_sessions(attacker: Attacker, path: str) -> None:
    request = ListSessionsRequest(limit=1000, filter=SessionFilter(metadata=path))
    await _repeat(attacker, "SessionService/ListSessions", request)


async def _repeat(attacker: Attacker, method: str, request: Request) -> None:
    await _in_parallel(attacker, lambda channel: attacker.call(channel, method, request))


async def _in_parallel(attacker: Attacker, work: Callable[[Channel], Awaitable[object]]) -> None:
    async with attacker.channels(1) as (channel,):
        await in_parallel(_PARALLEL, lambda: work(channel))
