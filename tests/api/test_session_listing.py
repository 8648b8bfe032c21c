"""SessionService.ListSessions: pages, their order, and their size."""

from collections.abc import Iterator
from typing import Any

import psycopg

from palaver.v1.session_service_pb2 import (
    AddSessionRequest,
    DeleteSessionRequest,
    ListSessionsRequest,
    ListSessionsResponse,
)
from tests.support.client import Client, struct

# Response messages that clients accept by default.
MAX_RESPONSE_BYTES = 4 * 1024 * 1024


def add_sessions(palaver: Client, *session_ids: str) -> None:
    for session_id in session_ids:
        palaver.sessions.AddSession(AddSessionRequest(session_id=session_id))


def delete_session(palaver: Client, session_id: str) -> None:
    palaver.sessions.DeleteSession(DeleteSessionRequest(session_id=session_id))


def pages_of(palaver: Client, request: ListSessionsRequest) -> Iterator[ListSessionsResponse]:
    while True:
        page = palaver.sessions.ListSessions(request)
        yield page
        if page.next_cursor == 0:
            return
        request.cursor = page.next_cursor


def ids(page: ListSessionsResponse) -> list[str]:
    return [session.session_id for session in page.sessions]


def test_pages_list_sessions_in_the_order_of_creation(palaver: Client) -> None:
    add_sessions(palaver, "e", "a", "d", "b", "c")

    pages = list(pages_of(palaver, ListSessionsRequest(limit=2)))

    assert [ids(page) for page in pages] == [["e", "a"], ["d", "b"], ["c"]]
    assert pages[0].next_cursor == pages[0].sessions[-1].id


def test_newest_first_lists_sessions_in_the_opposite_order(palaver: Client) -> None:
    add_sessions(palaver, "e", "a", "d", "b", "c")

    pages = list(pages_of(palaver, ListSessionsRequest(limit=2, newest_first=True)))

    assert [ids(page) for page in pages] == [["c", "b"], ["d", "a"], ["e"]]


def test_the_last_page_has_no_next_cursor_when_it_is_full(palaver: Client) -> None:
    add_sessions(palaver, "a", "b", "c", "d")

    for newest_first in (False, True):
        pages = list(pages_of(palaver, ListSessionsRequest(limit=2, newest_first=newest_first)))

        assert [len(page.sessions) for page in pages] == [2, 2]


def test_a_listed_session_is_whole(palaver: Client) -> None:
    request = AddSessionRequest(session_id="s", user_id="u", metadata=struct(plan="pro"))
    added = palaver.sessions.AddSession(request)

    page = palaver.sessions.ListSessions(ListSessionsRequest())

    assert list(page.sessions) == [added]


def test_there_may_be_nothing_to_list(palaver: Client) -> None:
    page = palaver.sessions.ListSessions(ListSessionsRequest())

    assert page == ListSessionsResponse()


def test_there_may_be_nothing_beyond_a_cursor(palaver: Client) -> None:
    add_sessions(palaver, "a")

    for cursor, newest_first in ((2**63 - 1, False), (1, True)):
        page = palaver.sessions.ListSessions(
            ListSessionsRequest(cursor=cursor, newest_first=newest_first)
        )

        assert page == ListSessionsResponse()


def test_a_page_has_at_most_as_many_sessions_as_it_may(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute("INSERT INTO sessions (session_id) SELECT generate_series(1, 1001)")

    by_default = palaver.sessions.ListSessions(ListSessionsRequest())
    largest = palaver.sessions.ListSessions(ListSessionsRequest(limit=1000))

    assert len(by_default.sessions) == 100
    assert by_default.next_cursor == by_default.sessions[-1].id
    assert len(largest.sessions) == 1000
    assert largest.next_cursor == largest.sessions[-1].id


def test_a_page_goes_on_where_a_deleted_session_was(palaver: Client) -> None:
    add_sessions(palaver, "a", "b", "c", "d")
    first = palaver.sessions.ListSessions(ListSessionsRequest(limit=2))
    delete_session(palaver, "b")

    second = palaver.sessions.ListSessions(ListSessionsRequest(limit=2, cursor=first.next_cursor))

    assert ids(second) == ["c", "d"]


def test_deleted_sessions_are_never_listed(palaver: Client) -> None:
    add_sessions(palaver, "a", "b", "c", "d")
    delete_session(palaver, "a")
    delete_session(palaver, "d")

    for newest_first, expected in ((False, ["b", "c"]), (True, ["c", "b"])):
        page = palaver.sessions.ListSessions(
            ListSessionsRequest(limit=2, newest_first=newest_first)
        )

        assert ids(page) == expected
        assert page.next_cursor == 0


def test_a_session_brought_back_keeps_its_place_and_one_started_anew_is_the_last(
    palaver: Client,
) -> None:
    add_sessions(palaver, "brought back", "anew", "c")
    delete_session(palaver, "brought back")
    delete_session(palaver, "anew")

    palaver.add("brought back", "hello")
    add_sessions(palaver, "anew")

    page = palaver.sessions.ListSessions(ListSessionsRequest())
    assert ids(page) == ["brought back", "c", "anew"]


def test_pages_of_large_metadata_are_cut_short_and_lose_nothing(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute(
        "INSERT INTO sessions (session_id, metadata)"
        " SELECT number, jsonb_build_object('text', repeat('x', 20000))"
        " FROM generate_series(1, 1000) AS number"
    )

    for newest_first in (False, True):
        pages = list(pages_of(palaver, ListSessionsRequest(limit=1000, newest_first=newest_first)))

        listed = [int(session_id) for page in pages for session_id in ids(page)]
        assert listed == sorted(range(1, 1001), reverse=newest_first)
        assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
        assert all(page.sessions[0].metadata == struct(text="x" * 20000) for page in pages)


def test_pages_of_the_largest_metadata_as_protobuf_are_cut_short(
    palaver: Client, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    # 64 KiB as JSON, and 352 KiB as a Struct.
    database.execute(
        "INSERT INTO sessions (session_id, metadata)"
        " SELECT number, jsonb_build_object('list', array_fill(1, ARRAY[32760]))"
        " FROM generate_series(1, 13) AS number"
    )

    pages = list(pages_of(palaver, ListSessionsRequest()))

    assert [session_id for page in pages for session_id in ids(page)] == [
        str(number) for number in range(1, 14)
    ]
    assert max(page.ByteSize() for page in pages) < MAX_RESPONSE_BYTES
