"""What the webhook says about itself to Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from recommender.api.metric_pages import MetricPage, metric_page
from vllm_plugin.names import PREFIX
from webhook.reviews import Reason

_PREFIX = f"{PREFIX}webhook_"
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 2)
_BYTES = (0, 512, 1024, 2048, 4096, 8192, 16384, 65536)


class _Ages:
    """A gauge whose kinds are known at each scrape only."""

    def __init__(self, ages: Callable[[], Mapping[str, float]]) -> None:
        self._ages = ages

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            _PREFIX + "knowledge_age_seconds", "Since the objects of a kind were last known to be so", labels=["kind"]
        )
        for kind, seconds in self._ages().items():
            family.add_metric([kind], seconds)
        yield family


class Metrics:
    """The webhook's metrics, in a registry of their own so that several apps can live in one process."""

    def __init__(
        self,
        ages: Callable[[], Mapping[str, float]],
        certificate_begins: Callable[[], float],
        certificate_expires: Callable[[], float],
        ready: Callable[[], bool],
        waiting: Callable[[], int],
    ) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            _PREFIX + "request_seconds",
            "Time spent on one admission review, from its last byte to the answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._patch_bytes = Histogram(
            _PREFIX + "patch_bytes", "Size of the patch of one answer", buckets=_BYTES, registry=self.registry
        )
        self._outcomes = Counter(
            _PREFIX + "outcomes", "Admission reviews by what became of them", ["reason"], registry=self.registry
        )
        for reason in Reason:
            self._outcomes.labels(reason.value)
        self._malformed = Counter(
            _PREFIX + "malformed", "Requests that held no admission review", registry=self.registry
        )
        self.registry.register(_Ages(ages))
        self._gauge("certificate_begin_timestamp_seconds", "When the served certificate began", certificate_begins)
        self._gauge("certificate_expiry_timestamp_seconds", "When the served certificate ends", certificate_expires)
        self._gauge("ready", "Whether this replica is ready", ready)
        self._gauge("requests_waiting", "Requests that have come and are not answered yet", waiting)

    def admitted(self, reason: Reason, seconds: float, patch_bytes: int) -> None:
        self._outcomes.labels(reason.value).inc()
        self._seconds.observe(seconds)
        self._patch_bytes.observe(patch_bytes)

    def malformed(self) -> None:
        self._malformed.inc()

    def page(self, accept: str | None, accept_encoding: str | None) -> MetricPage:
        """What Prometheus scrapes, as the headers of its request ask for it."""
        return metric_page(self.registry, accept, accept_encoding)

    def _gauge(self, name: str, help_text: str, value: Callable[[], float]) -> None:
        Gauge(_PREFIX + name, help_text, registry=self.registry).set_function(value)
