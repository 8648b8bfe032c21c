"""The metrics of a running server, as Prometheus scrapes them."""

import re
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape, and their text."""

    samples: list[Sample]
    text: str

    def matching(self, name: str, **labels: str) -> list[Sample]:
        """Return the samples with this name and these labels, among others."""
        wanted = labels.items()
        return [one for one in self.samples if one.name == name and wanted <= one.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name and these labels; there must be one."""
        samples = self.matching(name, **labels)
        assert samples, f"no sample is named {name} with {labels}"
        return sum(sample.value for sample in samples)


def scraped(url: str) -> Scrape:
    """Scrape once."""
    with urllib.request.urlopen(url, timeout=20) as response:
        text = response.read().decode()
    return Scrape(list(_samples(text)), text)


def _samples(text: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        yield from family.samples


def metrics_url(log: str) -> str:
    """Return the URL of the metrics from a log."""
    found = re.findall(r"metrics on (http://[\w.:\[\]]+/metrics)", log)
    assert found, f"no metrics are served:\n{log}"
    return str(found[-1])
