"""The purger: removes soft-deleted rows in short batches, one server at a time."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

from palaver_server.database.backlog import MAX_COUNTED_ROWS, Backlog
from palaver_server.database.error_translation import loggable_reason
from palaver_server.purge.purge_store import PurgeStore, PurgeTurn, TurnLost
from palaver_server.shared_run import SharedRun

_LOGGER = logging.getLogger(__name__)

_RETRY_INTERVAL_SECONDS = 0.5

# A transaction deletes all messages of its sessions.
_MAX_SESSIONS_PER_BATCH = 100


class PurgeProgress(NamedTuple):
    """The number of rows of each kind removed so far, and an estimate of the total."""

    done: Counter[str]
    estimated: dict[str, int]


class Purger:
    """The runner of purges, on demand and at intervals.

    Args:
        retention: How long deleted rows are kept, unless a call says otherwise.
        batch_size: The maximum number of rows removed in one transaction.
        session_retention: How long a session is kept after its last change; None: without limit.
    """

    def __init__(
        self,
        store: PurgeStore,
        *,
        retention: timedelta,
        batch_size: int,
        session_retention: timedelta | None = None,
    ) -> None:
        self._store = store
        self._retention = retention
        self._batch_size = batch_size
        self._session_retention = session_retention

    async def purge(self, older_than: timedelta | None = None) -> AsyncIterator[PurgeProgress]:
        """Wait for the turn to purge, then purge.

        Yields the progress at the start, twice a second, and at the end. The purge does not wait
        for a caller that does not read, and stops when the caller leaves.

        Args:
            older_than: How long ago rows must have been deleted; None: the retention.
        """
        async with aclosing(SharedRun(partial(self._run, older_than)).follow()) as reports:
            async for progress in reports:
                yield progress

    async def _run(self, older_than: timedelta | None) -> AsyncGenerator[PurgeProgress, None]:
        before = await self._store.cutoff(self._retention if older_than is None else older_than)
        done: Counter[str] = Counter()
        while True:
            async with self._store.turn() as turn:
                if turn is not None:
                    try:
                        async for progress in self._take(turn, before, done):
                            yield progress
                    except TurnLost:
                        _LOGGER.info("another server is purging; this purge continues after it")
                    else:
                        return
            await asyncio.sleep(_RETRY_INTERVAL_SECONDS)

    async def backlog(self) -> dict[str, Backlog]:
        """Count the rows of each kind that a purge would remove now, up to 100,000."""
        return await self._store.backlog(
            await self._store.cutoff(self._retention), limit=MAX_COUNTED_ROWS
        )

    async def run_every(self, interval: timedelta) -> None:
        """Purge at every interval until cancelled, unless another server is purging."""
        while True:
            await asyncio.sleep(interval.total_seconds())
            try:
                await self._purge_or_skip()
            except Exception as error:  # noqa: BLE001 - the next purge may succeed
                _LOGGER.warning(
                    "the interval purge failed (%s); retrying in %.0f s",
                    loggable_reason(error),
                    interval.total_seconds(),
                )

    async def _purge_or_skip(self) -> None:
        before = await self._store.cutoff(self._retention)
        async with self._store.turn() as turn:
            if turn is None:
                _LOGGER.info("skipped the interval purge: another server is purging")
                return
            done: Counter[str] = Counter()
            try:
                async for _ in self._take(turn, before, done):
                    pass
            except TurnLost:
                _LOGGER.info("stopped the interval purge: another server is purging")
        _LOGGER.info("purged %s", ", ".join(f"{count} {kind}" for kind, count in done.items()))

    async def _take(
        self, turn: PurgeTurn, before: datetime, done: Counter[str]
    ) -> AsyncIterator[PurgeProgress]:
        """Purge until nothing is left; add the removed rows to `done`."""
        await self._delete_sessions(turn)
        left = await turn.measure(before)
        estimated = {kind: done[kind] + count for kind, count in left.items()}
        yield PurgeProgress(done.copy(), estimated)
        for kind, purge_batch in turn.batches.items():
            while removed := await purge_batch(before, limit=self._batch_size):
                done[kind] += removed
                yield PurgeProgress(done.copy(), estimated)

    async def _delete_sessions(self, turn: PurgeTurn) -> None:
        """Delete the sessions that have expired, and those beyond the session retention."""
        limit = min(self._batch_size, _MAX_SESSIONS_PER_BATCH)
        while await turn.delete_expired(limit=limit):
            pass
        if self._session_retention is None:
            return
        after: str | None = ""
        while after is not None:
            after = await turn.delete_old(self._session_retention, limit=limit, after=after)
