"""Streams of pages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from palaver_server.database.paging import KeyRange, Page, RowT


async def pages(
    fetch: Callable[[KeyRange], Coroutine[Any, Any, Page[RowT]]], key_range: KeyRange
) -> AsyncIterator[Page[RowT]]:
    """Fetches the pages of a listing one after the other; an empty one is left out.

    While a page is encoded and sent, the next one is fetched. Between two pages nothing
    else is held: no transaction, no connection, no row.
    """
    page = await fetch(key_range)
    while page.has_more:
        key_range = key_range.beyond(page.rows[-1].position)
        following = asyncio.create_task(fetch(key_range))
        # Where the reader has gone, nobody asks how it ended.
        following.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.sleep(0)  # the statement is on its way before the page is encoded
            yield page
            page = await following
        finally:
            following.cancel()
    if page.rows:
        yield page
