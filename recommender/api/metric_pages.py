"""The answer of a server of ours to a scrape: the form that the scraper likes best, compressed where it takes that."""

from __future__ import annotations

import gzip
from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

_OPENMETRICS, _TEXT = "application/openmetrics-text; version=1.0.0", "text/plain; version=0.0.4"
_UNITS = ("seconds", "bytes", "ratio")
_COMPRESSION = 1
"""Pages repeat themselves: more effort takes several times as long, and saves little of what is left."""


class MetricPage(NamedTuple):
    """The body of an answer, and its headers."""

    body: bytes
    headers: dict[str, str]


def metric_page(registry: Collector, accept: str | None, accept_encoding: str | None) -> MetricPage:
    """What `registry` has, as the request's headers `Accept` and `Accept-Encoding` ask for it: OpenMetrics 1.0.0, or
    text format 0.0.4 where they like nothing else better."""
    encode, content_type = choose_encoder(_OPENMETRICS if _likes_openmetrics(accept) else _TEXT)
    body = encode(_WithUnits(registry))
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if any(coding.name == "gzip" for coding in _ranges(accept_encoding)):
        body = gzip.compress(body, _COMPRESSION)
        headers["Content-Encoding"] = "gzip"
    return MetricPage(body, headers)


class _Range(NamedTuple):
    """One part of such a header."""

    name: str
    parameters: dict[str, str]
    quality: float


def _likes_openmetrics(accept: str | None) -> bool:
    """Of a whole header prometheus_client would take the first part that it knows, and fails over odd versions."""
    for media in _ranges(accept):
        if media.name == "application/openmetrics-text" and media.parameters.get("version", "1.0.0") == "1.0.0":
            return True
        if media.name in {"*/*", "text/*"}:
            return False
        if media.name == "text/plain" and media.parameters.get("version", "0.0.4") == "0.0.4":
            return False
    return False


def _ranges(header: str | None) -> list[_Range]:
    """What is accepted at all, the best first."""
    found = []
    for part in (header or "").lower().split(","):
        name, *pairs = (word.strip() for word in part.split(";"))
        parameters = dict(pair.replace(" ", "").split("=", 1) for pair in pairs if "=" in pair)
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            continue
        if quality > 0:
            found.append(_Range(name, parameters, quality))
    return sorted(found, key=lambda one: -one.quality)


class _WithUnits(Collector):
    """Says each metric's unit, which its name ends with."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        for metric in self._registry.collect():
            metric.unit = next((unit for unit in _UNITS if metric.name.endswith(f"_{unit}")), "")
            yield metric
