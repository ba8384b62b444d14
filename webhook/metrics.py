"""What the webhook says about itself to Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from vllm_plugin.names import PREFIX
from webhook.reviews import Reason

_PREFIX = f"{PREFIX}webhook_"
_SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 2)


class Metrics:
    """The webhook's metrics, in a registry of their own so that several apps can live in one process."""

    def __init__(self, age_seconds: Callable[[], float], certificate_expires: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self._seconds = Histogram(
            _PREFIX + "request_seconds",
            "Time spent on one admission review, from its last byte to the answer",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._outcomes = Counter(
            _PREFIX + "outcomes", "Admission reviews by what became of them", ["reason"], registry=self.registry
        )
        for reason in Reason:
            self._outcomes.labels(reason.value)
        self._malformed = Counter(
            _PREFIX + "malformed", "Requests that held no admission review", registry=self.registry
        )
        age = Gauge(_PREFIX + "knowledge_age_seconds", "Since the objects were last read", registry=self.registry)
        age.set_function(age_seconds)
        expiry = Gauge(
            _PREFIX + "certificate_expiry_timestamp_seconds",
            "When the served certificate ends, in Unix time",
            registry=self.registry,
        )
        expiry.set_function(certificate_expires)

    def admitted(self, reason: Reason, seconds: float) -> None:
        self._outcomes.labels(reason.value).inc()
        self._seconds.observe(seconds)

    def malformed(self) -> None:
        self._malformed.inc()

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)
