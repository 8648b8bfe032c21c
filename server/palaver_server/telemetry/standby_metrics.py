"""Metrics of reads from a standby."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from palaver_server.database.standby import StandbyStats


class StandbyCollector(Collector):
    """A collector that reads a standby's figures at each scrape."""

    def __init__(self, stats: StandbyStats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        reads = CounterMetricFamily(
            "palaver_reads",
            "Reads, where a batch counts once, by the server that ran them.",
            labels=["server"],
        )
        for server, count in self._stats.reads.items():
            reads.add_metric([server], count)
        yield reads
        yield GaugeMetricFamily(
            "palaver_standby_used",
            "1 if the standby answered the last check, else 0.",
            value=self._stats.is_used,
        )
        yield GaugeMetricFamily(
            "palaver_standby_lag_bytes",
            "Bytes of the write-ahead log that the standby had not replayed at the last check.",
            value=self._stats.lag_bytes,
        )
