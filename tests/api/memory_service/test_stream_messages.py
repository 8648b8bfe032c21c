"""MemoryService.StreamMessages: a session's history in chunks."""

from collections.abc import Iterable

import grpc

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import (
    MessageFilter,
    StreamMessagesRequest,
    StreamMessagesResponse,
)
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused
from tests.support.concurrency import Connection
from tests.support.rival import MOVE_SESSION
from tests.support.rows import insert_messages


def contents_by_chunk(chunks: Iterable[StreamMessagesResponse]) -> list[list[str]]:
    return [[message.content for message in chunk.messages] for chunk in chunks]


MIB = 1024 * 1024


def letters(chunks: Iterable[StreamMessagesResponse]) -> str:
    return "".join(content[0] for chunk in contents_by_chunk(chunks) for content in chunk)


# --- Contract ----------------------------------------------------------------------------------


def test_stream_messages_chunks_hold_whole_history_and_next_cursor(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d", "e")

    chunks = palaver.stream_messages("s", chunk_size=2)

    assert contents_by_chunk(chunks) == [["a", "b"], ["c", "d"], ["e"]]
    assert [chunk.next_cursor for chunk in chunks] == [2, 4, 5]


def test_stream_messages_cancelled_stream_resumes_from_any_cursor(palaver: Client) -> None:
    palaver.add("s", *"abcdefg")
    stream = palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", chunk_size=2))
    first, second = next(stream), next(stream)
    stream.cancel()

    after_first = palaver.stream_messages("s", chunk_size=3, cursor=first.next_cursor)
    after_second = palaver.stream_messages("s", chunk_size=3, cursor=second.next_cursor)

    assert contents_by_chunk(after_first) == [["c", "d", "e"], ["f", "g"]]
    assert contents_by_chunk(after_second) == [["e", "f", "g"]]


def test_stream_messages_returns_whole_messages(palaver: Client) -> None:
    added = palaver.add("s", "a")
    message = palaver.get_message("s", added.messages[0].message_id)

    (chunk,) = palaver.stream_messages("s")

    assert list(chunk.messages) == [message]


def test_stream_messages_empty_session_has_no_chunk(palaver: Client) -> None:
    palaver.add_session("s")

    assert palaver.stream_messages("s") == []


def test_stream_messages_deleted_messages_are_left_out(palaver: Client) -> None:
    added = palaver.add("s", "a", "b", "c", "d")
    ids = [message.message_id for message in added.messages]
    palaver.delete_messages("s", message_ids=[ids[0], ids[2]])

    assert contents_by_chunk(palaver.stream_messages("s")) == [["b", "d"]]


def test_stream_messages_filter_delivers_only_what_passes(palaver: Client) -> None:
    palaver.add("s", "a", "b")
    palaver.add_memory("s", [Message(role="tool", content="c"), Message(role="user", content="d")])

    users = palaver.stream_messages("s", chunk_size=2, filter=MessageFilter(roles=["user"]))
    none = palaver.stream_messages("s", filter=MessageFilter(metadata="exists($.a)"))

    assert contents_by_chunk(users) == [["a", "b"], ["d"]]
    assert none == []


# --- Limits ------------------------------------------------------------------------------------


def test_stream_messages_chunks_default_to_100_and_reach_1000(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 1001)

    default, largest = palaver.stream_messages("s"), palaver.stream_messages("s", chunk_size=1000)

    assert [len(chunk.messages) for chunk in default] == [100] * 10 + [1]
    assert [len(chunk.messages) for chunk in largest] == [1000, 1]


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
