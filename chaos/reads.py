"""Reads of a session, each checked against the session's book."""

from collections.abc import Iterable
from random import Random
from typing import Any

from google.protobuf.json_format import MessageToDict

from chaos.caller import Caller, Refused, Request, rpc_of
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    GetMemoryRequest,
    GetMessageRequest,
    ListMessagesRequest,
    SearchMemoryRequest,
    StreamMessagesRequest,
)
from palaver.v1.session_service_pb2 import GetSessionRequest
from tests.support.model import state
from tests.support.model.book import Book, name_in
from tests.support.model.contract import as_told
from tests.support.model.expected import BrokenPromise
from tests.support.model.reading import Reading

# A word in every message.
WORD = "chaos"

_MAX_RESULTS = 100


def found_in(messages: Iterable[Message]) -> list[state.Message]:
    """Convert messages to the model's."""
    return list(map(as_told, messages))


async def get_session(caller: Caller, book: Book, _random: Random) -> None:
    """Call GetSession."""
    reading, session = await _read(caller, book, GetSessionRequest(session_id=book.session_id))
    if session:
        reading.check_metadata(MessageToDict(session.metadata))


async def get_memory(caller: Caller, book: Book, random: Random) -> None:
    """Read the newest messages."""
    request = GetMemoryRequest(session_id=book.session_id, last_n=random.choice((5, 1000)))
    reading, memory = await _read(caller, book, request)
    if memory:
        found = found_in(memory.messages)
        after = found[0].sequence - 1 if memory.has_more else 0
        reading.check_listing(found, after=after)
        reading.check_metadata(MessageToDict(memory.metadata))


async def list_messages(caller: Caller, book: Book, random: Random) -> None:
    """List a page of messages."""
    cursor = random.choice((0, random.randrange(len(book.live) + 1)))
    request = ListMessagesRequest(
        session_id=book.session_id, limit=random.choice((5, 1000)), cursor=cursor
    )
    reading, page = await _read(caller, book, request)
    if page:
        until = page.next_cursor or float("inf")
        reading.check_listing(found_in(page.messages), after=cursor, until=until)


async def stream_messages(caller: Caller, book: Book, random: Random) -> None:
    """Read all messages by streams, each from the cursor of the previous one."""
    reading = Reading(book, "StreamMessages")
    chunk_size = random.choice((3, 50))
    try:
        chunks = await caller.streamed(
            StreamMessagesRequest(session_id=book.session_id, chunk_size=chunk_size)
        )
    except Refused:
        reading.check_may_be_missing()
    else:
        reading.check_listing(found_in(message for chunk in chunks for message in chunk.messages))


async def get_message(caller: Caller, book: Book, random: Random) -> None:
    """Read one of the messages that exist or were deleted."""
    name = _any_name(book, random)
    message_id = book.live[name].message_id if name in book.live else name
    reading = Reading(book, "GetMessage")
    request = GetMessageRequest(session_id=book.session_id, message_id=message_id)
    try:
        found = found_in([await caller.answered(request)])
    except Refused:
        found = []
    reading.check_message(name, found)


async def search_session(caller: Caller, book: Book, _random: Random) -> None:
    """Search the session for the word in every message."""
    request = SearchMemoryRequest(session_id=book.session_id, text=WORD, limit=_MAX_RESULTS)
    reading, response = await _read(caller, book, request)
    if response:
        _all_are_of(book, response.results)
        found = found_in(result.message for result in response.results)
        # With more, the search ranks first and then drops results that are deleted meanwhile.
        if book.named <= _MAX_RESULTS:
            reading.check_listing(sorted(found, key=lambda one: one.sequence))
        else:
            reading.check_possible(found)


async def search_everything(caller: Caller, book: Book, random: Random) -> None:
    """Search all sessions for the name of a message that exists or was deleted."""
    name = _any_name(book, random)
    reading = Reading(book, "SearchMemory")
    response = await caller.answered(SearchMemoryRequest(text=name))
    results = [one for one in response.results if name_in(one.message.content) == name]
    _all_are_of(book, results)
    reading.check_message(name, found_in(result.message for result in results))


EVERY_READ = (
    get_session,
    get_memory,
    list_messages,
    stream_messages,
    get_message,
    search_session,
    search_everything,
)


async def _read(caller: Caller, book: Book, request: Request) -> tuple[Reading, Any]:
    """Make a call; return the reading, and the response unless the call was refused."""
    reading = Reading(book, rpc_of(request))
    try:
        return reading, await caller.answered(request)
    except Refused:
        reading.check_may_be_missing()
        return reading, None


def _any_name(book: Book, random: Random) -> str:
    return random.choice([*book.live, *book.gone] or ["m0"])


def _all_are_of(book: Book, results: Iterable[Any]) -> None:
    for result in results:
        if result.session_id != book.session_id:
            raise BrokenPromise(f"a search of {book.session_id} found {result.session_id}")
