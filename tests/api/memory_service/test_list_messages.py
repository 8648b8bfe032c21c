"""MemoryService.ListMessages: a session's history in pages."""

from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from palaver.v1.memory_pb2 import Message
from palaver.v1.memory_service_pb2 import ListMessagesRequest, ListMessagesResponse, MessageFilter
from tests.support.client import MAX_RESPONSE_BYTES, Client, refused, struct
from tests.support.concurrency import Connection
from tests.support.rows import insert_messages


def pages_of(palaver: Client, **fields: Any) -> list[ListMessagesResponse]:
    return list(palaver.pages(ListMessagesRequest(session_id="s", **fields)))


def contents_by_page(pages: Iterable[ListMessagesResponse]) -> list[list[str]]:
    return [[message.content for message in page.messages] for page in pages]


# --- Contract ----------------------------------------------------------------------------------


def test_list_messages_pages_are_in_order_of_sequence(palaver: Client) -> None:
    palaver.add("s", "e", "a", "d", "b", "c")
    palaver.add("other", "x")

    pages = pages_of(palaver, limit=2)

    assert contents_by_page(pages) == [["e", "a"], ["d", "b"], ["c"]]
    assert [page.next_cursor for page in pages] == [2, 4, 0]


def test_list_messages_newest_first_reverses_order(palaver: Client) -> None:
    palaver.add("s", "e", "a", "d", "b", "c")

    pages = pages_of(palaver, limit=2, newest_first=True)

    assert contents_by_page(pages) == [["c", "b"], ["d", "a"], ["e"]]
    assert [page.next_cursor for page in pages] == [4, 2, 0]


def test_list_messages_full_last_page_has_no_next_cursor(palaver: Client) -> None:
    palaver.add("s", "a", "b", "c", "d")

    for newest_first in (False, True):
        pages = pages_of(palaver, limit=2, newest_first=newest_first)

        assert [len(page.messages) for page in pages] == [2, 2]


def test_list_messages_cursor_starts_after_its_sequence(
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
            pages = pages_of(palaver, cursor=cursor, newest_first=newest_first)

            assert contents_by_page(pages) == [expected]


def test_list_messages_returns_whole_messages(palaver: Client) -> None:
    added = palaver.add("s", "a")
    message = palaver.get_message("s", added.messages[0].message_id)

    (page,) = pages_of(palaver)

    assert list(page.messages) == [message]


def test_list_messages_empty_session_has_empty_page(palaver: Client) -> None:
    palaver.add_session("s")

    assert pages_of(palaver) == [ListMessagesResponse()]


def test_list_messages_deleted_messages_are_left_out(palaver: Client) -> None:
    added = palaver.add("s", "a", "b", "c", "d")
    ids = [message.message_id for message in added.messages]
    palaver.delete_messages("s", message_ids=[ids[0], ids[2]])

    assert contents_by_page(pages_of(palaver, limit=2)) == [["b", "d"]]
    assert contents_by_page(pages_of(palaver, limit=2, newest_first=True)) == [["d", "b"]]


@pytest.mark.parametrize("newest_first", [False, True])
def test_list_messages_filter_lists_only_what_passes(
    palaver: Client, *, newest_first: bool
) -> None:
    roles = ["user", "tool", "user", "user", "tool", "user"]
    palaver.add_memory(
        "s",
        [
            Message(role=role, content=str(number), metadata=struct(odd=number % 2 == 1))
            for number, role in enumerate(roles, 1)
        ],
    )

    pages = pages_of(
        palaver, limit=2, newest_first=newest_first, filter=MessageFilter(roles=["user"])
    )
    odd = pages_of(palaver, filter=MessageFilter(roles=["user"], metadata="$.odd == true"))

    expected = [["6", "4"], ["3", "1"]] if newest_first else [["1", "3"], ["4", "6"]]
    assert contents_by_page(pages) == expected
    assert contents_by_page(odd) == [["1", "3"]]


def test_list_messages_filter_in_a_missing_session_is_not_found(palaver: Client) -> None:
    for passing in (MessageFilter(roles=["user"]), MessageFilter(metadata="exists($.a)")):
        with refused(grpc.StatusCode.NOT_FOUND):
            palaver.list_messages("absent", filter=passing)


# --- Limits ------------------------------------------------------------------------------------


def test_list_messages_pages_default_to_100_and_reach_1000(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 1001)

    assert [len(page.messages) for page in pages_of(palaver)] == [100] * 10 + [1]
    assert [len(page.messages) for page in pages_of(palaver, limit=1000)] == [1000, 1]


MIB = 1024 * 1024


def letters(pages: Iterable[ListMessagesResponse]) -> str:
    return "".join(content[0] for page in contents_by_page(pages) for content in page)


def test_list_messages_pages_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    insert_messages(database, 8, size=MIB)

    for newest_first, expected in ((False, "ABCDEFGH"), (True, "HGFEDCBA")):
        pages = pages_of(palaver, newest_first=newest_first)

        assert letters(pages) == expected
        assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
