"""Paging by position."""

from typing import NamedTuple

from palaver_server.database.paging import KeyRange, Page

LAST = 2**63 - 1


class Row(NamedTuple):
    position: int


def test_page_cursor_0_covers_everything() -> None:
    ascending = KeyRange.from_cursor(0)
    descending = KeyRange.from_cursor(0, newest_first=True)

    assert (ascending.after, ascending.before, ascending.direction) == (0, LAST, "ASC")
    assert (descending.after, descending.before, descending.direction) == (0, LAST, "DESC")


def test_page_cursor_continues_listing() -> None:
    ascending = KeyRange.from_cursor(7)
    descending = KeyRange.from_cursor(7, newest_first=True)

    assert (ascending.after, ascending.before) == (7, LAST)
    assert (descending.after, descending.before) == (0, 7)


def test_page_after_row_starts_behind_it() -> None:
    ascending = KeyRange(after=2, before=10).beyond(5)
    descending = KeyRange(after=2, before=10, newest_first=True).beyond(5)

    assert ascending == KeyRange(after=5, before=10)
    assert descending == KeyRange(after=2, before=5, newest_first=True)


def test_page_up_to_includes_position_and_never_widens_range() -> None:
    assert KeyRange().up_to(5) == KeyRange(before=6)
    assert KeyRange(before=4).up_to(5) == KeyRange(before=4)
    assert KeyRange(newest_first=True).up_to(5) == KeyRange(before=6, newest_first=True)
    assert KeyRange().up_to(0) == KeyRange(before=1)


def test_page_holds_rows_and_whether_more_follow() -> None:
    page = Page.of(Row, [(True, 3), (True, 5)])

    assert page.rows == [Row(3), Row(5)]
    assert page.has_more
    assert page.next_cursor == 5


def test_page_that_is_last_has_no_next_cursor() -> None:
    page = Page.of(Row, [(True, 3), (False, 5)])

    assert not page.has_more
    assert page.next_cursor == 0


def test_page_that_is_empty_is_last() -> None:
    page = Page.of(Row, [])

    assert page == Page([], has_more=False)
    assert page.next_cursor == 0
