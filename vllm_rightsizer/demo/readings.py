"""What vLLM and the plugin say of themselves on their metrics pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from vllm_plugin import names
from vllm_rightsizer.errors import UserError

_TIMEOUT_SECONDS = 60.0
_USAGE_PERIOD_SECONDS = 0.5


@dataclass(frozen=True)
class VLLMReading:
    """vLLM's own counters and the size of its pool, from its `/metrics`."""

    pool_blocks: int
    usage: float
    hit_tokens: float
    lookup_tokens: float
    preemptions: float


@dataclass(frozen=True)
class Curve:
    """Hit rate by pool size, at the bounds of the plugin's histogram."""

    kv_bytes: tuple[float, ...]
    hit_rates: tuple[float, ...]

    def at(self, kv_bytes: float) -> float:
        """The hit rate at a size; a straight line between two bounds."""
        points = list(zip(self.kv_bytes, self.hit_rates, strict=True))
        for (low, below), (high, above) in pairwise(points):
            if low <= kv_bytes <= high:
                return below + (above - below) * (kv_bytes - low) / (high - low)
        return points[0][1] if kv_bytes < points[0][0] else points[-1][1]


@dataclass(frozen=True)
class PluginReading:
    """The plugin's page."""

    weights_bytes: int
    overhead_bytes: int
    pool_bytes: int
    active_peak_bytes: int
    headroom_bytes: int
    allocated_bytes: int
    floor_bytes: int
    requests: int
    lookup_tokens: float
    curve: Curve


def read_vllm(base_url: str) -> VLLMReading:
    """Read vLLM's page. Raises `UserError` where there is none, or where it lacks something."""
    page = _Page(f"{base_url}/metrics")
    return VLLMReading(
        pool_blocks=int(page.sample("vllm:cache_config_info").labels["num_gpu_blocks"]),
        usage=page.value("vllm:kv_cache_usage_perc"),
        hit_tokens=page.value("vllm:prefix_cache_hits_total"),
        lookup_tokens=page.value("vllm:prefix_cache_queries_total"),
        preemptions=page.value("vllm:num_preemptions_total"),
    )


def read_plugin(base_url: str) -> PluginReading:
    """Read the plugin's page. Raises `UserError` where there is none, or where it lacks something."""
    page = _Page(f"{base_url}/metrics")
    tokens = page.value(names.LOOKUP_TOKENS)
    block_tokens = page.value(names.KV_CACHE_BLOCK_TOKENS)
    buckets = sorted(
        (float(sample.labels["le"]), sample.value) for sample in page.all(names.KV_REUSE_DISTANCE_BYTES + "_bucket")
    )[:-1]
    return PluginReading(
        weights_bytes=int(page.value(names.MODEL_WEIGHTS_BYTES)),
        overhead_bytes=int(sum(sample.value for sample in page.all(names.RUNTIME_OVERHEAD_BYTES))),
        pool_bytes=int(page.value(names.KV_CACHE_CAPACITY_BYTES)),
        active_peak_bytes=int(page.value(names.KV_CACHE_ACTIVE_PEAK_BYTES)),
        headroom_bytes=int(page.value(names.PREFIX_CACHE_HEADROOM_BYTES)),
        allocated_bytes=int(page.value(names.GPU_MEMORY_ALLOCATED_BYTES)),
        floor_bytes=int(page.value(names.KV_FLOOR_BYTES)),
        requests=int(page.value(names.REQUESTS)),
        lookup_tokens=tokens,
        curve=Curve(
            tuple(bound for bound, _ in buckets),
            tuple(count * block_tokens / tokens if tokens else 0.0 for _, count in buckets),
        ),
    )


class _Page:
    def __init__(self, url: str) -> None:
        self._url = url
        try:
            answer = httpx.get(url, timeout=_TIMEOUT_SECONDS, trust_env=False)
            answer.raise_for_status()
            families = list(text_string_to_metric_families(answer.text))
        except (httpx.HTTPError, ValueError) as error:
            raise UserError(f"no metrics at {url}: {error or type(error).__name__}") from error
        self._samples = [sample for family in families for sample in family.samples]

    def all(self, name: str) -> Iterator[Sample]:
        return (sample for sample in self._samples if sample.name == name)

    def sample(self, name: str) -> Sample:
        found = next(self.all(name), None)
        if found is None:
            raise UserError(f"{self._url} does not show {name}")
        return found

    def value(self, name: str) -> float:
        return self.sample(name).value


class UsageSampler:
    """Watches `vllm:kv_cache_usage_perc`, the metric by which pools are sized where nobody knows better."""

    def __init__(self, base_url: str) -> None:
        self._base_url = base_url
        self._seen: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def __enter__(self) -> UsageSampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def p99(self) -> float:
        """The share of the pool that was in use, at most, 99 % of the time."""
        ordered = sorted(self._seen)
        return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] if ordered else 0.0

    def _run(self) -> None:
        while not self._ended.wait(_USAGE_PERIOD_SECONDS):
            try:
                self._seen.append(read_vllm(self._base_url).usage)
            except UserError:
                # The load itself reports a vLLM that does not answer.
                return
