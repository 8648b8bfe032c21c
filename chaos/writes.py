"""Calls that change a session with many writers, each recorded in its book before and after."""

from collections.abc import Sequence

import grpc
from google.protobuf.struct_pb2 import Struct

from chaos.caller import Caller, Refused
from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    AddMemoryRequest,
    AddMemoryResponse,
    DeleteMessagesRequest,
)
from palaver.v1.session_service_pb2 import UpdateSessionRequest
from tests.support.model.book import Book
from tests.support.model.contract import as_given, as_told
from tests.support.model.expected import BrokenPromise


async def add(caller: Caller, book: Book, messages: Sequence[Message]) -> None:
    """Add messages with ids; retry until that is acknowledged."""
    sent = {message.message_id: as_given(message) for message in messages}
    above = book.will_send(sent.values())
    request = AddMemoryRequest(session_id=book.session_id, messages=messages)
    response = await caller.answered(request, lambda: book.doubt(sent))
    _added(book, messages, response, above)


async def add_without_ids(caller: Caller, book: Book, messages: Sequence[Message]) -> None:
    """Add messages to which the service gives ids. Do not retry: that would add them twice."""
    above = book.will_send(map(as_given, messages))
    try:
        response = await caller.attempt(
            AddMemoryRequest(session_id=book.session_id, messages=messages)
        )
    except Refused:
        book.doubt(map(book.name_of, map(as_given, messages)))
    else:
        _added(book, messages, response, above)


async def add_next(caller: Caller, book: Book, messages: Sequence[Message]) -> None:
    """Add messages unless others were added meanwhile; this makes it safe to send them again."""
    sent = [as_given(message) for message in messages]
    names = [book.name_of(message) for message in sent]
    above = book.will_send(sent)
    request = AddMemoryRequest(
        session_id=book.session_id, messages=messages, expected_last_sequence=above
    )
    try:
        response = await caller.answered(request, lambda: book.doubt(names), predicted=True)
    except Refused as refused:
        if refused.code is not grpc.StatusCode.ABORTED:
            raise BrokenPromise(f"AddMemory ended with {refused.code.name}") from refused
        book.record_gone(names)
        return
    if response.messages[0].sequence != above + 1:
        raise BrokenPromise(f"{book.session_id}: {response.messages[0]} is not next to {above}")
    _added(book, messages, response, above)


def _added(
    book: Book, messages: Sequence[Message], response: AddMemoryResponse, above: int
) -> None:
    added = {}
    for message, told in zip(map(as_given, messages), response.messages, strict=True):
        message.message_id, message.sequence = told.message_id, told.sequence
        added[book.name_of(message)] = message
    book.added(added, above=above)


async def merge(caller: Caller, book: Book, key: str) -> None:
    """Merge a new key into the session's metadata."""
    metadata = Struct()
    metadata.update({key: key.upper()})
    await caller.carried_out(UpdateSessionRequest(session_id=book.session_id, metadata=metadata))
    book.merged[key] = key.upper()


async def delete_messages(caller: Caller, book: Book, names: Sequence[str]) -> None:
    """Delete live messages."""
    ids = [book.live[name].message_id for name in names]
    was_certain = book.is_certain
    book.will_delete(names)
    request = DeleteMessagesRequest(session_id=book.session_id, message_ids=ids)
    response, at_once = await caller.carried_out(request)
    deleted = {book.name_of(as_told(one)) for one in response.messages}
    if not deleted <= set(names) or (was_certain and at_once and deleted != set(names)):
        raise BrokenPromise(f"{book.session_id}: deleted {deleted}, expected {names}")
    book.record_gone(names)
