"""MemoryService.ListMessages and StreamMessages: a session's history in pages and chunks."""

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
import psycopg
import pytest

from palaver.v1.memory_service_pb2 import (
    DeleteMemoryRequest,
    DeleteMessagesRequest,
    GetMessageRequest,
    ListMessagesRequest,
    ListMessagesResponse,
    StreamMessagesRequest,
    StreamMessagesResponse,
)
from palaver.v1.session_service_pb2 import AddSessionRequest
from tests.support.client import Client, refused

MAX_RESPONSE_BYTES = 4 * 1024 * 1024
MIB = 1024 * 1024


def pages_of(palaver: Client, **fields: Any) -> Iterator[ListMessagesResponse]:
    request = ListMessagesRequest(session_id="s", **fields)
    while True:
        page = palaver.memory.ListMessages(request)
        yield page
        if page.next_cursor == 0:
            return
        request.cursor = page.next_cursor


def stream_of(palaver: Client, **fields: Any) -> Any:
    return palaver.memory.StreamMessages(StreamMessagesRequest(session_id="s", **fields))


def contents(pages: Iterable[ListMessagesResponse | StreamMessagesResponse]) -> list[list[str]]:
    return [[message.content for message in page.messages] for page in pages]


def add_many(
    database: psycopg.Connection[tuple[Any, ...]], messages: int, *, size: int = 1
) -> None:
    """Adds a session of as many messages, each of one character as often as `size`."""
    parameters = {"messages": messages, "size": size}
    database.execute(
        "INSERT INTO sessions (session_id, last_sequence) VALUES ('s', %(messages)s)", parameters
    )
    database.execute(
        "INSERT INTO messages (session_id, sequence, message_id, role, content)"
        " SELECT 's', number, number, 'user', repeat(chr(64 + number), %(size)s)"
        " FROM generate_series(1, %(messages)s) AS number",
        parameters,
    )


def letters(pages: Iterable[ListMessagesResponse | StreamMessagesResponse]) -> str:
    return "".join(content[0] for page in contents(pages) for content in page)


def test_pages_list_messages_in_the_order_of_their_sequences(palaver: Client) -> None:
    palaver.add("s", "e", "a", "d", "b", "c")
    palaver.add("other", "x")

    pages = list(pages_of(palaver, limit=2))

    assert contents(pages) == [["e", "a"], ["d", "b"], ["c"]]
    assert [page.next_cursor for page in pages] == [2, 4, 0]


def test_newest_first_lists_messages_in_the_opposite_order(palaver: Client) -> None:
    palaver.add("s", "e", "a", "d", "b", "c")

    pages = list(pages_of(palaver, limit=2, newest_first=True))

    assert contents(pages) == [["c", "b"], ["d", "a"], ["e"]]
    assert [page.next_cursor for page in pages] == [4, 2, 0]


def test_the_last_page_has_no_next_cursor_when_it_is_full(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d")

    for newest_first in (False, True):
        pages = list(pages_of(palaver, limit=2, newest_first=newest_first))

        assert [len(page.messages) for page in pages] == [2, 2]


def test_a_page_starts_beyond_the_sequence_of_its_cursor(
    palaver: Client, subtests: pytest.Subtests
) -> None:
    palaver.add("s", "a", "b", "c")

    for cursor, newest_first, expected in (
        (2, False, ["c"]),
        (3, False, []),
        (2**63 - 1, False, []),
        (2**63 - 1, True, ["c", "b", "a"]),
        (2, True, ["a"]),
        (1, True, []),
    ):
        with subtests.test(cursor=cursor, newest_first=newest_first):
            pages = list(pages_of(palaver, cursor=cursor, newest_first=newest_first))

            assert contents(pages) == [expected]


def test_a_listed_message_is_whole(palaver: Client) -> None:
    added = palaver.add("s", "a")
    message = palaver.memory.GetMessage(
        GetMessageRequest(session_id="s", message_id=added.messages[0].message_id)
    )

    (page,) = pages_of(palaver)
    (chunk,) = stream_of(palaver)

    assert list(page.messages) == list(chunk.messages) == [message]


def test_an_empty_session_has_an_empty_page_and_no_chunk(palaver: Client) -> None:
    palaver.sessions.AddSession(AddSessionRequest(session_id="s"))

    assert list(pages_of(palaver)) == [ListMessagesResponse()]
    assert list(stream_of(palaver)) == []


def test_pages_and_chunks_have_100_messages_by_default_and_up_to_1000(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 1001)

    assert [len(page.messages) for page in pages_of(palaver)] == [100] * 10 + [1]
    assert [len(page.messages) for page in pages_of(palaver, limit=1000)] == [1000, 1]
    assert [len(chunk.messages) for chunk in stream_of(palaver)] == [100] * 10 + [1]
    assert [len(chunk.messages) for chunk in stream_of(palaver, chunk_size=1000)] == [1000, 1]


def test_deleted_messages_are_neither_listed_nor_streamed(palaver: Client) -> None:
    added = palaver.add("s", "a", "b", "c", "d")
    ids = [message.message_id for message in added.messages]
    palaver.memory.DeleteMessages(
        DeleteMessagesRequest(session_id="s", message_ids=[ids[0], ids[2]])
    )

    assert contents(pages_of(palaver, limit=2)) == [["b", "d"]]
    assert contents(pages_of(palaver, limit=2, newest_first=True)) == [["d", "b"]]
    assert contents(stream_of(palaver)) == [["b", "d"]]


def test_pages_of_large_contents_are_cut_short_and_lose_nothing(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 8, size=MIB)

    for newest_first, expected in ((False, "ABCDEFGH"), (True, "HGFEDCBA")):
        pages = list(pages_of(palaver, newest_first=newest_first))

        assert letters(pages) == expected
        assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES


def test_chunks_have_the_whole_history_and_the_cursor_after_it(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d", "e")

    chunks = list(stream_of(palaver, chunk_size=2))

    assert contents(chunks) == [["a", "b"], ["c", "d"], ["e"]]
    assert [chunk.next_cursor for chunk in chunks] == [2, 4, 5]


def test_a_cancelled_stream_is_resumed_from_the_cursor_of_any_chunk(palaver: Client) -> None:
    palaver.add("s", *"abcdefg")
    stream = stream_of(palaver, chunk_size=2)
    first, second = next(stream), next(stream)
    stream.cancel()

    after_first = list(stream_of(palaver, chunk_size=3, cursor=first.next_cursor))
    after_second = list(stream_of(palaver, chunk_size=3, cursor=second.next_cursor))

    assert contents(after_first) == [["c", "d", "e"], ["f", "g"]]
    assert contents(after_second) == [["e", "f", "g"]]


def test_chunks_of_large_contents_are_cut_short_and_lose_nothing(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 8, size=MIB)

    chunks = list(stream_of(palaver))

    assert letters(chunks) == "ABCDEFGH"
    assert max(chunk.ByteSize() for chunk in chunks) < MAX_RESPONSE_BYTES


def test_the_stream_ends_although_a_writer_goes_on_adding(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 20, size=MIB)

    chunks = []
    for chunk in stream_of(palaver, chunk_size=1):
        chunks.append(chunk)
        palaver.add("s", "added meanwhile")
        assert len(chunks) <= 20

    assert letters(chunks) == "ABCDEFGHIJKLMNOPQRST"


def test_the_stream_of_a_session_that_is_deleted_meanwhile_ends_with_not_found(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    add_many(database, 20, size=MIB)
    stream = stream_of(palaver, chunk_size=1)
    next(stream)

    palaver.memory.DeleteMemory(DeleteMemoryRequest(session_id="s"))

    with refused(grpc.StatusCode.NOT_FOUND):
        list(stream)
