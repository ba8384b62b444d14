"""A gauge of which all values are said at once, as thousands of workloads have one each.

prometheus_client keeps an object for every combination of labels; making a fleet's anew each round takes longer than
all the rest that is done with their values. Here they wait in a list, and metrics are made where somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric

Sample = tuple[tuple[str, ...], float]
"""The values of the labels, and the gauge's."""


class GaugeTable:
    """A gauge in `registry`, without a sample at first."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._samples: list[Sample] = []
        registry.register(self)

    def set(self, samples: Iterable[Sample]) -> None:
        """These and no others."""
        self._samples = list(samples)

    def clear(self) -> None:
        self._samples = []

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, value in self._samples:
            family.add_metric(labels, value)
        yield family
