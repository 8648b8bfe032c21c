"""Metrics of searches."""

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class SearchCollector(Collector):
    """A collector that reads the number of fallbacks at each scrape.

    Args:
        fallbacks: Returns how many searches were answered without the embedder.
    """

    def __init__(self, fallbacks: Callable[[], int]) -> None:
        self._fallbacks = fallbacks

    def collect(self) -> Iterator[Metric]:
        """Yield the metric."""
        yield CounterMetricFamily(
            "palaver_search_fallbacks",
            "Searches answered by keyword because the embedder failed or was too slow.",
            value=self._fallbacks(),
        )
