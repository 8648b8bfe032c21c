"""The metrics of work that waits in the database."""

import asyncio
import logging
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from palaver_server.database.backlog import Backlog, MeasureBacklog
from palaver_server.errors import PalaverError

_LOGGER = logging.getLogger(__name__)

# Measuring asks the database, and so follows a clock of its own, not that of the scrapes.
_SECONDS_BETWEEN_MEASUREMENTS = 30


class BacklogMetrics:
    """Measures backlogs, and keeps what it found last.

    Args:
        measures: By the name of the work.
    """

    def __init__(self, registry: CollectorRegistry, measures: Mapping[str, MeasureBacklog]) -> None:
        self._measures = measures
        labels = ("work", "kind")
        self._rows = Gauge(
            "palaver_backlog_rows",
            "Rows that wait for the work, counted up to 100,000.",
            labels,
            registry=registry,
        )
        self._oldest_seconds = Gauge(
            "palaver_backlog_oldest_seconds",
            "How long the oldest of them has waited.",
            labels,
            registry=registry,
        )

    async def watch(self) -> None:
        """Measures for ever."""
        while True:
            for work, measure in self._measures.items():
                try:
                    self._show(work, await measure())
                except PalaverError as error:
                    _LOGGER.warning("the backlog of the %s is not known: %s", work, error)
            await asyncio.sleep(_SECONDS_BETWEEN_MEASUREMENTS)

    def _show(self, work: str, backlogs: Mapping[str, Backlog]) -> None:
        for kind, backlog in backlogs.items():
            self._rows.labels(work, kind).set(backlog.rows)
            self._oldest_seconds.labels(work, kind).set(backlog.oldest_seconds)
