"""What a Prometheus would have of pages, and its answers to the recommender's queries, without one.

It knows the few forms that are asked. That the real one answers alike is tried where one runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from synthetic import BLOCK_TOKENS, SyntheticEngine

from recommender.exposition import PageSample
from recommender.promql.answers import PromSeries, Value
from recommender.promql.client import QueryError
from vllm_plugin import names

_QUERY = re.compile(r"(?:(?P<function>\w+)\()?(?P<metric>\w*)\{(?P<matchers>.*)\}\[(?P<ms>\d+)ms\]\)?")
_MATCHER = re.compile(r'(\w+)(=~|=)"((?:[^"\\]|\\.)*)"')
_BOUNDS = (*map(repr, names.REUSE_BUCKET_BOUNDS), "+Inf")
_OVER_TIME = {"last_over_time": lambda values: values[-1], "max_over_time": lambda values: max(map(float, values))}


@dataclass
class Scraped:
    """Series by their labels, and what was asked. `faults`: the next answers that fail; `warnings`: of each answer."""

    native: bool = False
    series: dict[str, dict[tuple[tuple[str, str], ...], list[tuple[float, Value]]]] = field(default_factory=dict)
    """By name, and by labels."""
    asked: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    warnings: tuple[str, ...] = ()

    def scrape(self, at: float, page: Sequence[PageSample], target: Mapping[str, str]) -> None:
        """Take what stands on a page of the plugin's, with the labels of its target."""
        for name, labels, value in page:
            if isinstance(value, float) or self.native:
                self.add(at, {"__name__": name, **labels, **target}, value)
                continue
            for bound, count in zip(_BOUNDS, value, strict=True):
                self.add(at, {"__name__": f"{name}_bucket", **labels, "le": bound, **target}, float(count))

    def add(self, at: float, labels: Mapping[str, str], value: Value) -> None:
        of_name = self.series.setdefault(labels["__name__"], {})
        of_name.setdefault(tuple(sorted(labels.items())), []).append((at, value))

    async def query(self, expression: str, at: float, take: Callable[[PromSeries], None]) -> tuple[str, ...]:
        self.asked.append(expression)
        if self.faults:
            raise QueryError(self.faults.pop(0))
        parts = _QUERY.fullmatch(expression)
        assert parts is not None, expression
        seconds = int(parts["ms"]) / 1000
        for labels, samples in self._chosen(parts["metric"], parts["matchers"]):
            within = [(when, value) for when, value in samples if at - seconds < when <= at + 1e-6]
            if not within:
                continue
            function = parts["function"]
            if function is not None:
                within = [(at, _OVER_TIME[function]([value for _, value in within]))]
                if function != "last_over_time":
                    del labels["__name__"]
            take(PromSeries(labels, within))
        return self.warnings

    async def label_values(self, label: str, selector: str, start: float, end: float) -> list[str]:
        self.asked.append(f"{label} of {selector}")
        metric, _, matchers = selector.rstrip("}").partition("{")
        return sorted(
            {
                labels[label]
                for labels, samples in self._chosen(metric, matchers)
                if any(start <= when <= end for when, _ in samples)
            }
        )

    def _chosen(self, metric: str, matchers: str) -> list[tuple[dict[str, str], Sequence[tuple[float, Value]]]]:
        wanted = {label: (how, text.replace("\\\\", "\\")) for label, how, text in _MATCHER.findall(matchers)}
        how, text = ("=", metric) if metric else wanted.pop("__name__")
        return [
            (labels, samples)
            for name in self.series
            if _matches(name, how, text)
            for items, samples in self.series[name].items()
            if (labels := dict(items)) and all(_matches(labels.get(label, ""), *one) for label, one in wanted.items())
        ]


def _matches(value: str, how: str, text: str) -> bool:
    return value == text if how == "=" else re.fullmatch(text, value) is not None


def page_of(engine: SyntheticEngine, uid: str = "", name: str = "0") -> list[PageSample]:
    """What stands on the page of a pod with one engine."""
    of_engine, capacity = {names.LABEL_ENGINE: name}, engine.blocks * engine.block_bytes
    of_rank = {**of_engine, names.LABEL_RANK: "0"}
    active = engine.active_blocks * engine.block_bytes
    of_ranks = {
        names.MODEL_WEIGHTS_BYTES: engine.weights_bytes,
        names.KV_CACHE_CAPACITY_BYTES: capacity,
        names.KV_CACHE_BLOCK_BYTES: engine.block_bytes,
        names.GPU_MEMORY_TOTAL_BYTES: engine.total_bytes,
        names.GPU_MEMORY_ALLOCATED_BYTES: engine.weights_bytes + engine.overhead_bytes + capacity,
    }
    if engine.reserved_bytes:
        of_ranks[names.KV_CACHE_RESERVED_BYTES] = engine.reserved_bytes
    of_engines = {
        names.KV_CACHE_BLOCK_TOKENS: BLOCK_TOKENS,
        names.KV_CACHE_ACTIVE_BYTES: active,
        names.KV_CACHE_ACTIVE_PEAK_BYTES: active,
        names.KV_CACHE_REUSABLE_BYTES: 0,
        names.KV_DEMAND_PEAK_BYTES: engine.demand_blocks * engine.block_bytes,
        names.KV_FLOOR_BYTES: engine.floor_blocks * engine.block_bytes,
        names.PREEMPTIONS: engine.preemptions,
        names.ADMISSIONS_BLOCKED: engine.admissions_blocked,
        names.REQUESTS: engine.requests,
        names.LOOKUP_TOKENS: engine.lookup_tokens,
        names.HIT_TOKENS: engine.hit_tokens,
    }
    build = {"version": "0.1.0"} | ({names.LABEL_POD_UID: uid} if uid else {})
    return [
        *((metric, of_rank, float(value)) for metric, value in of_ranks.items()),
        *((metric, of_engine, float(value)) for metric, value in of_engines.items()),
        (names.RUNTIME_OVERHEAD_BYTES, {**of_rank, names.LABEL_COMPONENT: "other"}, float(engine.overhead_bytes)),
        (names.BUILD_INFO, build, 1.0),
        (names.ENGINE_INFO, {**of_engine, **engine.info, "vllm_version": engine.vllm_version, "model": "llama"}, 1.0),
        (names.KV_REUSE_DISTANCE_BYTES, of_engine, tuple(accumulate(engine.reuse))),
    ]
