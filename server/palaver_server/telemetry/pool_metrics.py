"""Metrics of the pool of database connections."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Statistic(NamedTuple):
    """A metric of the pool, made from one of psycopg_pool's statistics."""

    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    documentation: str
    unit: float = 1


_MILLISECONDS = 0.001

_STATISTICS = {
    "pool_max": _Statistic(GaugeMetricFamily, "connections_max", "Maximum open connections."),
    "pool_size": _Statistic(GaugeMetricFamily, "connections", "Open connections."),
    "pool_available": _Statistic(GaugeMetricFamily, "connections_idle", "Idle connections."),
    "requests_waiting": _Statistic(
        GaugeMetricFamily, "requests_waiting", "Calls waiting for a connection now."
    ),
    "requests_num": _Statistic(CounterMetricFamily, "requests", "Requests for a connection."),
    "requests_queued": _Statistic(
        CounterMetricFamily, "requests_queued", "Requests that had to wait."
    ),
    "requests_wait_ms": _Statistic(
        CounterMetricFamily,
        "wait_seconds",
        "Seconds that requests had to wait.",
        _MILLISECONDS,
    ),
    "requests_errors": _Statistic(
        CounterMetricFamily, "requests_failed", "Requests that timed out."
    ),
    "usage_ms": _Statistic(
        CounterMetricFamily, "usage_seconds", "Seconds that connections were in use.", _MILLISECONDS
    ),
    "connections_num": _Statistic(
        CounterMetricFamily, "connection_attempts", "Attempts to open a connection."
    ),
    "connections_errors": _Statistic(
        CounterMetricFamily, "connections_failed", "Failed attempts to open a connection."
    ),
    "connections_lost": _Statistic(
        CounterMetricFamily, "connections_lost", "Connections found broken."
    ),
}


class PoolCollector(Collector):
    """A collector that reads the pool's statistics at each scrape.

    Its counters restart when the pool is reset.

    Args:
        stats: Returns the statistics under psycopg_pool's names.
    """

    def __init__(self, stats: Callable[[], Mapping[str, int]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics."""
        stats = self._stats()
        for key, statistic in _STATISTICS.items():
            value = stats.get(key, 0) * statistic.unit
            name = f"palaver_pool_{statistic.name}"
            yield statistic.family(name, statistic.documentation, value=value)
