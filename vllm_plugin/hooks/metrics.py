"""vLLM's own page, /metrics: our metrics stand there too.

With one API server it shows prometheus_client's `REGISTRY`; with several, and where the user sets
PROMETHEUS_MULTIPROC_DIR, what a `MultiProcessCollector` gathers from files. prometheus_client is vLLM's dependency, not
ours: it is watched, never imported.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterable
from itertools import chain
from types import ModuleType
from typing import Any

from vllm_plugin.guard import MARK, hook


def patch(module: ModuleType) -> None:
    """Add ours to `prometheus_client.registry` or to `prometheus_client.multiprocess`."""
    if hasattr(module, "REGISTRY"):
        module.REGISTRY.register(_Collector())
    if hasattr(module, "MultiProcessCollector"):
        _extend(module.MultiProcessCollector)


class _Collector:
    """What a registry asks for metrics."""

    def describe(self) -> list[Any]:
        """Nothing: with names to compare, the registry would collect them all at registration."""
        return []

    def collect(self) -> list[Any]:
        """Our metrics; none where a `MultiProcessCollector` shows them."""
        several = "PROMETHEUS_MULTIPROC_DIR" in os.environ
        return [] if several else hook("metrics").run(_metrics) or []


def _extend(collector: Any) -> None:
    original = collector.collect

    @functools.wraps(original)
    def collect(self: Any) -> Iterable[Any]:
        return chain(original(self), hook("metrics").run(_metrics) or ())

    setattr(collect, MARK, True)
    collector.collect = collect


def _metrics() -> list[Any]:
    """Our page as prometheus_client's objects, with nothing in them at which writing them could fail."""
    from vllm_plugin import process
    from vllm_plugin.formats import samples
    from vllm_plugin.page import families

    metric_type = sys.modules["prometheus_client.metrics_core"].Metric
    found = []
    for family in families(process.current().snapshots()):
        # It puts the ending of counters back itself.
        name = family.name[: -len("_total")] if family.kind == "counter" else family.name
        metric = metric_type(name, family.text, "gauge" if family.kind == "info" else family.kind)
        for sample, labels, value in samples(family):
            metric.add_sample(sample, {label: str(text) for label, text in labels.items()}, float(value))
        found.append(metric)
    return found
