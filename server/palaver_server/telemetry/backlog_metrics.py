"""Metrics of work that waits in the database."""

import asyncio
import logging
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Gauge

from palaver_server.database.backlog import Backlog, MeasureBacklog
from palaver_server.errors import PalaverError

_LOGGER = logging.getLogger(__name__)

# Measuring queries the database, so it runs at its own interval instead of at each scrape.
_MEASUREMENT_INTERVAL_SECONDS = 30


class BacklogMetrics:
    """Metrics of backlogs, measured at intervals.

    Args:
        registry: The registry of the metrics.
        measures: Functions that measure a backlog, by the name of the work.
    """

    def __init__(self, registry: CollectorRegistry, measures: Mapping[str, MeasureBacklog]) -> None:
        self._measures = measures
        labels = ("work", "kind")
        self._rows = Gauge(
            "palaver_backlog_rows",
            "Rows waiting for the work, counted up to 100,000.",
            labels,
            registry=registry,
        )
        self._oldest_seconds = Gauge(
            "palaver_backlog_oldest_seconds",
            "Seconds that the oldest waiting row has waited.",
            labels,
            registry=registry,
        )

    async def watch(self) -> None:
        """Measure the backlogs until cancelled."""
        while True:
            for work, measure in self._measures.items():
                try:
                    self._show(work, await measure())
                except PalaverError as error:
                    _LOGGER.warning(
                        "measuring the %s backlog failed; its metrics keep their last values for"
                        " %d s: %s",
                        work,
                        _MEASUREMENT_INTERVAL_SECONDS,
                        error,
                    )
            await asyncio.sleep(_MEASUREMENT_INTERVAL_SECONDS)

    def _show(self, work: str, backlogs: Mapping[str, Backlog]) -> None:
        for kind, backlog in backlogs.items():
            self._rows.labels(work, kind).set(backlog.rows)
            self._oldest_seconds.labels(work, kind).set(backlog.oldest_seconds)
