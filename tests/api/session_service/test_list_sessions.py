"""SessionService.ListSessions: pages, their order, and their size."""

import pytest

from palaver.v1.session_service_pb2 import ListSessionsRequest, ListSessionsResponse
from tests.support.client import MAX_RESPONSE_BYTES, Client, struct
from tests.support.concurrency import Connection


def ids(page: ListSessionsResponse) -> list[str]:
    return [session.session_id for session in page.sessions]


# --- Contract ----------------------------------------------------------------------------------


def test_list_sessions_pages_are_in_order_of_creation(palaver: Client) -> None:
    palaver.add_sessions("e", "a", "d", "b", "c")

    pages = list(palaver.pages(ListSessionsRequest(limit=2)))

    assert [ids(page) for page in pages] == [["e", "a"], ["d", "b"], ["c"]]
    assert pages[0].next_cursor == pages[0].sessions[-1].id


def test_list_sessions_newest_first_reverses_order(palaver: Client) -> None:
    palaver.add_sessions("e", "a", "d", "b", "c")

    pages = list(palaver.pages(ListSessionsRequest(limit=2, newest_first=True)))

    assert [ids(page) for page in pages] == [["c", "b"], ["d", "a"], ["e"]]


def test_list_sessions_full_last_page_has_no_next_cursor(palaver: Client) -> None:
    palaver.add_sessions("a", "b", "c", "d")

    for newest_first in (False, True):
        pages = list(palaver.pages(ListSessionsRequest(limit=2, newest_first=newest_first)))

        assert [len(page.sessions) for page in pages] == [2, 2]


def test_list_sessions_returns_whole_sessions(palaver: Client) -> None:
    added = palaver.add_session("s", user_id="u", metadata=struct(plan="pro"))

    page = palaver.list_sessions()

    assert list(page.sessions) == [added]


def test_list_sessions_without_sessions_returns_empty_page(palaver: Client) -> None:
    page = palaver.list_sessions()

    assert page == ListSessionsResponse()


def test_list_sessions_cursor_after_last_session_returns_empty_page(palaver: Client) -> None:
    palaver.add_sessions("a")

    for cursor, newest_first in ((2**63 - 1, False), (1, True)):
        page = palaver.list_sessions(cursor=cursor, newest_first=newest_first)

        assert page == ListSessionsResponse()


def test_list_sessions_cursor_of_deleted_session_continues(palaver: Client) -> None:
    palaver.add_sessions("a", "b", "c", "d")
    first = palaver.list_sessions(limit=2)
    palaver.delete_session("b")

    second = palaver.list_sessions(limit=2, cursor=first.next_cursor)

    assert ids(second) == ["c", "d"]


def test_list_sessions_deleted_sessions_are_left_out(palaver: Client) -> None:
    palaver.add_sessions("a", "b", "c", "d")
    palaver.delete_session("a")
    palaver.delete_session("d")

    for newest_first, expected in ((False, ["b", "c"]), (True, ["c", "b"])):
        page = palaver.list_sessions(limit=2, newest_first=newest_first)

        assert ids(page) == expected
        assert page.next_cursor == 0


def test_list_sessions_restored_session_keeps_place_and_new_one_is_last(
    palaver: Client,
) -> None:
    palaver.add_sessions("restored", "recreated", "c")
    palaver.delete_session("restored")
    palaver.delete_session("recreated")

    palaver.add("restored", "hello")
    palaver.add_sessions("recreated")

    page = palaver.list_sessions()
    assert ids(page) == ["restored", "c", "recreated"]


# --- Limits ------------------------------------------------------------------------------------


def test_list_sessions_pages_default_to_100_and_reach_1000(
    palaver: Client, database: Connection
) -> None:
    database.execute("INSERT INTO sessions (session_id) SELECT generate_series(1, 1001)")

    by_default = palaver.list_sessions()
    largest = palaver.list_sessions(limit=1000)

    assert len(by_default.sessions) == 100
    assert by_default.next_cursor == by_default.sessions[-1].id
    assert len(largest.sessions) == 1000
    assert largest.next_cursor == largest.sessions[-1].id


@pytest.mark.slow
def test_list_sessions_pages_over_response_size_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    database.execute(
        "INSERT INTO sessions (session_id, metadata)"
        " SELECT number, jsonb_build_object('text', repeat('x', 20000))"
        " FROM generate_series(1, 1000) AS number"
    )

    for newest_first in (False, True):
        pages = list(palaver.pages(ListSessionsRequest(limit=1000, newest_first=newest_first)))

        listed = [int(session_id) for page in pages for session_id in ids(page)]
        assert listed == sorted(range(1, 1001), reverse=newest_first)
        assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
        assert all(page.sessions[0].metadata == struct(text="x" * 20000) for page in pages)


def test_list_sessions_pages_of_metadata_large_as_protobuf_are_cut_without_loss(
    palaver: Client, database: Connection
) -> None:
    # 64 KiB as JSON, and 352 KiB as a Struct.
    database.execute(
        "INSERT INTO sessions (session_id, metadata)"
        " SELECT number, jsonb_build_object('list', array_fill(1, ARRAY[32760]))"
        " FROM generate_series(1, 13) AS number"
    )

    pages = list(palaver.pages(ListSessionsRequest()))

    assert [session_id for page in pages for session_id in ids(page)] == [
        str(number) for number in range(1, 14)
    ]
    assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
