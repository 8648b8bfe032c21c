"""Streams of pages."""

from collections.abc import AsyncIterator, Awaitable, Callable

from server.store.page import Page, RowT, Span


async def pages(
    fetch: Callable[[Span], Awaitable[Page[RowT]]], span: Span
) -> AsyncIterator[Page[RowT]]:
    """Fetches the pages of a listing one after the other; an empty one is left out.

    Between two pages nothing is held: no transaction, no connection, no row.
    """
    while True:
        page = await fetch(span)
        if page.rows:
            yield page
            span = span.beyond(page.rows[-1].position)
        if not page.has_more:
            return
