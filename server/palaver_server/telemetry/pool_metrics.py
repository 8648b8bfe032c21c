"""The metrics of the pool of database connections."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class _Shown(NamedTuple):
    """How a figure of the pool's is shown."""

    family: type[CounterMetricFamily | GaugeMetricFamily]
    name: str
    documentation: str
    unit: float = 1


_MILLISECONDS = 0.001

_SHOWN = {
    "pool_max": _Shown(GaugeMetricFamily, "connections_max", "Connections open at the most."),
    "pool_size": _Shown(GaugeMetricFamily, "connections", "Connections that are open."),
    "pool_available": _Shown(GaugeMetricFamily, "connections_idle", "Connections not in use."),
    "requests_waiting": _Shown(
        GaugeMetricFamily, "requests_waiting", "Calls that wait for a connection now."
    ),
    "requests_num": _Shown(CounterMetricFamily, "requests", "Connections that were asked for."),
    "requests_queued": _Shown(
        CounterMetricFamily, "requests_queued", "Those that had to be waited for."
    ),
    "requests_wait_ms": _Shown(
        CounterMetricFamily, "wait_seconds", "Time for which calls waited.", _MILLISECONDS
    ),
    "requests_errors": _Shown(
        CounterMetricFamily, "requests_failed", "Those that were not given in time."
    ),
    "usage_ms": _Shown(
        CounterMetricFamily, "usage_seconds", "Time for which connections were used.", _MILLISECONDS
    ),
    "connections_num": _Shown(
        CounterMetricFamily, "connection_attempts", "Attempts to open a connection."
    ),
    "connections_errors": _Shown(
        CounterMetricFamily, "connections_failed", "Attempts that failed."
    ),
    "connections_lost": _Shown(
        CounterMetricFamily, "connections_lost", "Connections that were found dead."
    ),
}


class PoolCollector(Collector):
    """Reads the pool's figures at each scrape; its counters start over when it is renewed.

    Args:
        stats: Gives the figures, under the names that psycopg_pool gives them.
    """

    def __init__(self, stats: Callable[[], Mapping[str, int]]) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        """Gives the metrics."""
        stats = self._stats()
        for key, shown in _SHOWN.items():
            value = stats.get(key, 0) * shown.unit
            yield shown.family(f"palaver_pool_{shown.name}", shown.documentation, value=value)
