"""Streams of the pages of a listing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from palaver_server.database.paging import KeyRange, Page, RowT
from palaver_server.services.response_budget import READ_AHEAD


async def pages(
    fetch: Callable[[KeyRange], Coroutine[Any, Any, Page[RowT]]], key_range: KeyRange
) -> AsyncIterator[Page[RowT]]:
    """Yield the pages of a listing; an empty listing has none.

    The next page is fetched while a page is encoded and sent, if the budget of responses has room
    for it. Between two pages, the stream holds no transaction, connection or row lock.
    """
    read_ahead = READ_AHEAD.get()
    page = await fetch(key_range)
    while page.has_more:
        key_range = key_range.beyond(page.rows[-1].position)
        if not read_ahead.try_reserve():
            yield page
            await read_ahead.reserve()
            page = await fetch(key_range)
            continue
        following = asyncio.create_task(fetch(key_range))
        # Retrieve the exception: if the client is gone, the task is never awaited.
        following.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.sleep(0)  # lets the task send its statement before the page is encoded
            yield page
            page = await following
        finally:
            following.cancel()
    if page.rows:
        yield page
