"""The purge: removes soft-deleted rows for good, in short batches, one purger at a time."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import NamedTuple

from palaver_server.database.backlog import MAX_COUNTED_ROWS, Backlog
from palaver_server.purge.purge_store import PurgeStore, PurgeTurn

_LOGGER = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 0.5
_SECONDS_BETWEEN_REPORTS = 0.5


class PurgeProgress(NamedTuple):
    """How many rows of each kind a purge has removed, and how many there were to remove."""

    done: Counter[str]
    estimated: dict[str, int]


class Purger:
    """Runs purges, on demand and at intervals.

    Args:
        retention: How long deleted rows are kept where a call does not say.
        batch_size: Rows removed in one transaction.
    """

    def __init__(self, store: PurgeStore, *, retention: timedelta, batch_size: int) -> None:
        self._store = store
        self._retention = retention
        self._batch_size = batch_size

    async def purge(self, older_than: timedelta | None = None) -> AsyncIterator[PurgeProgress]:
        """Waits for its turn, purges, and reports twice a second, at the start and at the end.

        Args:
            older_than: How long ago rows must have been deleted; None: the retention.
        """
        before = await self._store.cutoff(self._retention if older_than is None else older_than)
        while True:
            async with self._store.turn() as turn:
                if turn is not None:
                    async for progress in self._take(turn, before):
                        yield progress
                    return
            await asyncio.sleep(_SECONDS_BETWEEN_TRIES)

    async def backlog(self) -> dict[str, Backlog]:
        """Counts the rows of each kind that the next purge is to remove, up to 100,000."""
        return await self._store.backlog(
            await self._store.cutoff(self._retention), limit=MAX_COUNTED_ROWS
        )

    async def run_every(self, interval: timedelta) -> None:
        """Purges at every interval for ever; skips a time at which another purger is at it."""
        while True:
            await asyncio.sleep(interval.total_seconds())
            try:
                await self._purge_or_skip()
            except Exception as error:  # noqa: BLE001 - the next time may do better
                _LOGGER.warning("the purge failed: %s", type(error).__name__)

    async def _purge_or_skip(self) -> None:
        before = await self._store.cutoff(self._retention)
        async with self._store.turn() as turn:
            if turn is None:
                _LOGGER.info("the purge is left to another server")
                return
            async for progress in self._take(turn, before):
                done = progress.done
        _LOGGER.info("purged %s", ", ".join(f"{count} {kind}" for kind, count in done.items()))

    async def _take(self, turn: PurgeTurn, before: datetime) -> AsyncIterator[PurgeProgress]:
        progress = PurgeProgress(Counter(), await turn.measure(before))
        yield progress
        clock = asyncio.get_running_loop().time
        reported_at = clock()
        for kind, purge_batch in turn.batches.items():
            while removed := await purge_batch(before, limit=self._batch_size):
                progress.done[kind] += removed
                if clock() - reported_at >= _SECONDS_BETWEEN_REPORTS:
                    yield progress
                    reported_at = clock()
        yield progress
