"""Reading vLLM's own page, for pods without the plugin: Prometheus text in, what stands there of each engine out.

The names are those of all releases since 0.7, V0's included; the unit of queries and hits was a block at first and is a
token now, so only their ratio is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from recommender.samples import LARGEST_COUNT, MOST_ENGINES, RefusedSampleError

_CONFIG = "vllm:cache_config_info"
_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_QUERIES = ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total")
_HITS = ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total")
_HIT_RATE = "vllm:gpu_prefix_cache_hit_rate"
_PREEMPTIONS = "vllm:num_preemptions_total"
_PROMPTS, _GENERATED = "vllm:request_prompt_tokens", "vllm:request_generation_tokens"

_SCALARS = (*_USAGE, *_QUERIES, *_HITS, _HIT_RATE, _PREEMPTIONS)
_LINES = (
    *(f"{name}{end}" for name in _SCALARS for end in ("{", " ")),
    *(f"{name}{{" for name in (_CONFIG, f"{_PROMPTS}_bucket", f"{_GENERATED}_bucket")),
)


@dataclass(frozen=True)
class VLLMSample:
    """One engine as vLLM itself shows it. Counters run since the process started.

    `usage` is the share of the pool that running requests hold, 0 to 1. `largest_tokens` bounds the largest request
    that has ended, prompt and answer, from above; 0 where none has. vLLM's longest context lies between the two
    `context_tokens`, of which the second is not reached. `hit_rate` is what V0 shows in place of queries and hits;
    some releases show neither.
    """

    engine: str
    blocks: int
    block_tokens: int
    usage: float
    queries: int
    hits: int
    preemptions: int
    largest_tokens: int
    context_tokens: tuple[int, int]
    shows_hits: bool = True
    hit_rate: float | None = None


def parse_vllm_page(text: str) -> tuple[VLLMSample, ...]:
    """One sample of every engine that has a pool. Raises `RefusedSampleError`."""
    page = _Page(text)
    if len(page.configs) > MOST_ENGINES:
        raise RefusedSampleError(f"vLLM's page has {len(page.configs)} engines, which cannot be")
    engines = tuple(page.sample(engine, labels) for engine, labels in sorted(page.configs.items()))
    if not engines:
        raise RefusedSampleError(
            f"vLLM's page has no {_CONFIG}: it is still starting, or was told to log no statistics"
        )
    return engines


class _Page:
    def __init__(self, text: str) -> None:
        self.configs: dict[str, Mapping[str, str]] = {}
        self._values: dict[tuple[str, str], float] = {}
        self._buckets: dict[tuple[str, str], dict[float, float]] = {}
        for name, labels, value in _samples(text):
            engine = labels.get("engine", "")
            if name == _CONFIG:
                # V0 and some releases write "None" until the pool is there.
                if _counts(labels.get("num_gpu_blocks", "")) and _counts(labels.get("block_size", "")):
                    self.configs[engine] = labels
            elif name.endswith("_bucket"):
                bound = float(labels.get("le", "nan"))
                buckets = self._buckets.setdefault((name.removesuffix("_bucket"), engine), {})
                buckets[bound] = buckets.get(bound, 0.0) + value
            else:
                self._values[name, engine] = value

    def sample(self, engine: str, labels: Mapping[str, str]) -> VLLMSample:
        usage = self._first(_USAGE, engine)
        if usage is None or not 0 <= usage <= 1:
            raise RefusedSampleError(f"vLLM's page shows no usage of its KV cache ({_USAGE[0]} is {usage})")
        hits, queries = self._count(_HITS, engine), self._count(_QUERIES, engine)
        if hits > queries:
            raise RefusedSampleError(f"vLLM's page shows {hits} hits of {queries} queries")
        hit_rate = self._values.get((_HIT_RATE, engine))
        # Below 0 it is where there is no cache of prefixes.
        if hit_rate is not None and not hit_rate <= 1:
            raise RefusedSampleError(f"{_HIT_RATE} is {hit_rate:g}, which cannot be")
        return VLLMSample(
            engine=engine,
            blocks=int(labels["num_gpu_blocks"]),
            block_tokens=int(labels["block_size"]),
            usage=usage,
            queries=queries,
            hits=hits,
            preemptions=self._count((_PREEMPTIONS,), engine),
            largest_tokens=self._largest(_PROMPTS, engine) + self._largest(_GENERATED, engine),
            context_tokens=self._context(engine),
            shows_hits=any((name, engine) in self._values for name in (*_QUERIES, _HIT_RATE))
            or labels.get("enable_prefix_caching") == "False",
            hit_rate=hit_rate,
        )

    def _first(self, names: tuple[str, ...], engine: str) -> float | None:
        return next((self._values[name, engine] for name in names if (name, engine) in self._values), None)

    def _count(self, names: tuple[str, ...], engine: str) -> int:
        value = self._first(names, engine) or 0.0
        if not 0 <= value <= LARGEST_COUNT:
            raise RefusedSampleError(f"{names[0]} is {value:g}, which cannot be")
        return round(value)

    def _largest(self, name: str, engine: str) -> int:
        """The upper bound of the highest bucket that holds a request."""
        buckets = sorted(self._buckets.get((name, engine), {}).items())
        total = buckets[-1][1] if buckets else 0
        if not total:
            return 0
        bound = next(bound for bound, count in buckets if count == total)
        return round(bound if bound < math.inf else _next_step(max(bound for bound, _ in buckets[:-1])))

    def _context(self, engine: str) -> tuple[int, int]:
        """The buckets of tokens go 1, 2, 5, 10, … as far as the longest context."""
        last = max((bound for bound in self._buckets.get((_PROMPTS, engine), {}) if bound < math.inf), default=0.0)
        return round(last), _next_step(last)


def _counts(text: str) -> bool:
    """Whether it is a number of blocks, or of tokens, that can be reckoned with."""
    return text.isdecimal() and len(text) < len(str(LARGEST_COUNT)) and int(text) > 0


def _next_step(bound: float) -> int:
    """The number after `bound` in 1, 2, 5, 10, 20, …"""
    power = math.pow(10, math.floor(math.log10(max(bound, 1))))
    return round(next(step * power for step in (1, 2, 5, 10) if step * power > bound))


def _samples(text: str) -> Iterator[tuple[str, dict[str, str], float]]:
    lines = "\n".join(line for line in text.splitlines() if line.startswith(_LINES))
    try:
        for family in text_string_to_metric_families(lines + "\n"):
            for sample in family.samples:
                yield sample.name, sample.labels, float(sample.value)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RefusedSampleError(f"vLLM's page is no Prometheus text: {error}") from error
