"""How long the event loop of a server was held by one step of its work."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.conftest import Run


@dataclass
class Hold:
    """The longest time between two turns of the event loop.

    In processor time of the loop's thread, which other threads and processes do not add to.
    """

    seconds: float = 0


@contextmanager
def longest_hold(run: "Run") -> Iterator[Hold]:
    """Watch the event loop of the tests during the block."""
    hold = Hold()

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0.001)
            now = time.thread_time()
            hold.seconds, before = max(hold.seconds, now - before), now

    async def start() -> "asyncio.Task[None]":
        return asyncio.create_task(watch())

    async def stop(task: "asyncio.Task[None]") -> None:
        await asyncio.sleep(0.002)  # after the work of the block
        task.cancel()

    task = run(start())
    try:
        yield hold
    finally:
        run(stop(task))
