"""Tasks that run as long as the server does."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any

_LOGGER = logging.getLogger(__name__)


@asynccontextmanager
async def in_background(work: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run coroutines as tasks during the block, and cancel them after it.

    A task that raises is a bug. It is logged, and the others continue.
    """
    tasks = [asyncio.create_task(each) for each in work]
    for task in tasks:
        task.add_done_callback(_log_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        _LOGGER.error(
            "background task %s failed and does not run again until a restart",
            task.get_coro(),
            exc_info=error,
        )
