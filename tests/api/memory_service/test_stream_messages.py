"""MemoryService.StreamMessages: a session's history in chunks."""

from collections.abc import Iterable

import grpc

from palaver.v1.memory_service_pb2 import (
    ListMessagesResponse,
    StreamMessagesRequest,
    StreamMessagesResponse,
)
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused
from tests.support.concurrency import Connection
from tests.support.rival import MOVE_SESSION
from tests.support.rows import insert_messages


def contents_by_page(
    pages: Iterable[ListMessagesResponse | StreamMessagesResponse],
) -> list[list[str]]:
    return [[message.content for message in page.messages] for page in pages]


MIB = 1024 * 1024


def letters(pages: Iterable[ListMessagesResponse | StreamMessagesResponse]) -> str:
    return "".join(content[0] for page in contents_by_page(pages) for content in page)


# --- Contract ----------------------------------------------------------------------------------


def test_stream_messages_chunks_hold_whole_history_and_next_cursor(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d", "e")

    chunks = palaver.stream_messages("s", chunk_size=2)

    assert contents_by_page(chunks) == [["a", "b"], ["c", "d"], ["e"]]
    assert [chunk.next_cursor for chunk in chunks] == [2, 4, 5]


def test_stream_messages_cancelled_stream_resumes_from_any_cursor(palaver: Client) -> None:
    palaver.add("s", *"abcdefg")
    stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=2))
    first, second = next(stream), next(stream)
    stream.cancel()

    after_first = palaver.stream_messages("s", chunk_size=3, cursor=first.next_cursor)
    after_second = palaver.stream_messages("s", chunk_size=3, cursor=second.next_cursor)

    assert contents_by_page(after_first) == [["c", "d", "e"], ["f", "g"]]
    assert contents_by_page(after_second) == [["e", "f", "g"]]


# --- Limits ------------------------------------------------------------------------------------


def test_stream_messages_chunks_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 8, size=MIB)

    chunks = palaver.stream_messages("s")

    assert letters(chunks) == "ABCDEFGH"
    assert max(chunk.ByteSize() for chunk in chunks) < MAX_RESPONSE_BYTES


# --- Concurrency -------------------------------------------------------------------------------


def test_stream_messages_ends_while_a_writer_keeps_adding(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 20, size=MIB)

    chunks = []
    for chunk in palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1)):
        chunks.append(chunk)
        palaver.add("s", "added meanwhile")
        assert len(chunks) <= 20

    assert letters(chunks) == "ABCDEFGHIJKLMNOPQRST"


def test_stream_messages_session_deleted_during_stream_ends_with_not_found(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 20, size=MIB)
    stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    next(stream)

    palaver.delete_memory("s")

    with refused(grpc.StatusCode.NOT_FOUND):
        list(stream)


# --- Access ------------------------------------------------------------------------------------


def test_stream_messages_session_moved_away_during_stream_ends_with_not_found(
    scoped: Client, database: Connection
) -> None:
    scoped.add_session("s")
    for _ in range(20):
        scoped.add("s", "x" * 1_000_000)
    stream = scoped.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=1))
    next(stream)

    database.execute(MOVE_SESSION, ["bob"])

    with refused(grpc.StatusCode.NOT_FOUND):
        list(stream)
