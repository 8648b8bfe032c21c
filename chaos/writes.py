"""Calls that change a session, each recorded in the session's book before and after."""

from collections.abc import Sequence
from random import Random

from google.protobuf.struct_pb2 import Struct

from chaos.caller import Caller, Refused
from chaos.ledger import NO_ANSWER
from chaos.reads import found_in
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    UpdateMessageRequest,
)
from palaver.v1.session_service_pb2 import DeleteSessionRequest, UpdateSessionRequest
from tests.support.model.book import Book, name_of
from tests.support.model.expected import BrokenPromise, Place


async def add(
    caller: Caller, book: Book, contents: Sequence[str], user_id: str | None = None
) -> None:
    """Add messages with their names as ids; retry until that is acknowledged."""
    names = [name_of(content) for content in contents]
    messages = [
        Message(message_id=name, role="user", content=content)
        for name, content in zip(names, contents, strict=True)
    ]
    above = book.will_send(contents)
    is_doubtful = False

    def doubt() -> None:
        nonlocal is_doubtful
        is_doubtful = True
        book.doubt(names)

    request = AddMemoryRequest(session_id=book.session_id, messages=messages, user_id=user_id)
    response = await caller.answered(request, doubt)
    # An attempt without an answer may have created the session.
    if response.session_created or (is_doubtful and response.messages[0].sequence == 1):
        book.starts_over()
        above = 0
    _added(book, names, response, above)


async def add_without_ids(caller: Caller, book: Book, contents: Sequence[str]) -> None:
    """Add messages to which the service gives ids. Do not retry: that would add them twice."""
    names = [name_of(content) for content in contents]
    messages = [Message(role="user", content=content) for content in contents]
    above = book.will_send(contents)
    try:
        response = await caller.attempt(
            AddMemoryRequest(session_id=book.session_id, messages=messages)
        )
    except Refused:
        book.doubt(names)
    else:
        _added(book, names, response, above)


def _added(book: Book, names: Sequence[str], response: AddMemoryResponse, above: int) -> None:
    places = [Place(one.message_id, one.sequence) for one in response.messages]
    book.added(dict(zip(names, places, strict=True)), above=above)


async def update_message(caller: Caller, book: Book, content: str) -> None:
    """Change the content of a live message."""
    name = name_of(content)
    book.will_send([content])
    request = UpdateMessageRequest(
        session_id=book.session_id, message_id=book.live[name].message_id, content=content
    )
    _, at_once = await caller.carried_out(request)
    if not at_once:
        book.doubt([name])


async def merge(caller: Caller, book: Book, key: str) -> None:
    """Merge a new key into the session's metadata."""
    metadata = Struct()
    metadata.update({key: key.upper()})
    await caller.carried_out(UpdateSessionRequest(session_id=book.session_id, metadata=metadata))
    book.merged[key] = key.upper()


async def delete_messages(caller: Caller, book: Book, names: Sequence[str]) -> bool:
    """Delete live messages; return whether no attempt can still be carried out later."""
    ids = [book.live[name].message_id for name in names]
    was_certain = book.is_certain
    book.will_delete(names)
    request = DeleteMessagesRequest(session_id=book.session_id, message_ids=ids)
    response, at_once = await caller.carried_out(request)
    deleted = {one.name for one in found_in(response.messages)}
    if not deleted <= set(names) or (was_certain and at_once and deleted != set(names)):
        raise BrokenPromise(f"{book.session_id}: deleted {deleted}, expected {names}")
    book.deleted(names)
    return at_once


async def pop(caller: Caller, book: Book) -> None:
    """Delete the newest message of a session whose state is certain."""
    newest = max(book.live, key=lambda name: book.live[name].sequence)
    place = book.live[newest]
    book.will_delete([newest])
    try:
        response = await caller.attempt(DeleteMessagesRequest(session_id=book.session_id, last_n=1))
    except Refused as refused:
        if refused.code in NO_ANSWER:
            book.retire()  # it may still delete the message that is newest then
        else:
            book.live[newest] = place
        return
    popped = [one.name for one in found_in(response.messages)]
    if popped != [newest]:
        raise BrokenPromise(f"{book.session_id}: deleted {popped}, but {newest} was the newest")
    book.deleted(popped)


async def delete_session(caller: Caller, book: Book, random: Random) -> None:
    """Delete the session by DeleteSession or DeleteMemory."""
    live = len(book.live) if book.is_certain else None
    kind = random.choice((DeleteSessionRequest, DeleteMemoryRequest))
    book.will_delete_all()
    response, at_once = await caller.carried_out(kind(session_id=book.session_id), deletes=True)
    if not at_once:
        book.retire()  # an attempt may still be carried out
    elif live not in (None, response.messages_deleted):
        raise BrokenPromise(
            f"{book.session_id}: deleted {response.messages_deleted} messages, expected {live}"
        )
    book.all_deleted()
