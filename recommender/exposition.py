"""Reading the plugin's page: Prometheus text in, a `PodSample` out, or a reason why not."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence

from prometheus_client.parser import text_string_to_metric_families

from recommender.histograms import BUCKETS, pack
from recommender.samples import (
    ASLEEP,
    KVCACHED,
    LARGEST_BYTES,
    LARGEST_COUNT,
    LONGEST_TEXT,
    MOST_ENGINES,
    NO_KV_CACHE,
    Counters,
    EngineFacts,
    EngineSample,
    NothingToSizeError,
    PodSample,
    Rank,
    RefusedSampleError,
)
from vllm_plugin import names

_BUCKET_OF = {f"{bound:.9e}": index for index, bound in enumerate(names.REUSE_BUCKET_BOUNDS)}
"""Bounds by nine digits: exporters differ in how they write a double."""

_COMPACT_BOUNDS = (*map(repr, names.REUSE_BUCKET_BOUNDS), "+Inf")

_OF_THE_REUSE_HISTOGRAM = tuple(names.KV_REUSE_DISTANCE_BYTES + suffix for suffix in ("_bucket", "_sum", "_count"))
_ABOUT_THE_PLUGIN = (names.HOOK_SECONDS, names.HOOK_ERRORS)
"""Its own cost, a series a hook: no figure of an engine."""

INDISPENSABLE_HOOKS = ("kv_cache_manager", "lookup", "admission", "free")
"""Without one of them the figures stand still, and look like those of a quiet service."""

_REUSE_HOOK = "reuse"
_NO_ONE_ORDER = (
    "the model has KV groups that are neither full attention nor a sliding window, or V0 a pool for each stage of its "
    "pipeline, which is not modelled yet: today's pool stays"
)

_OF_A_SCHEDULER = (names.KV_CACHE_BLOCK_TOKENS, names.KV_FLOOR_BYTES, names.REQUESTS)
"""Figures that a pod with nothing but ranks of an engine has none of."""

_LARGEST_BLOCK_TOKENS = 1 << 20
_DIGITS_OF_TOKENS = 9

Key = tuple[str, str]
"""Engine and rank, each empty where the page does not say."""

PageSample = tuple[str, Mapping[str, str], float | tuple[int, ...]]
"""Name, labels and value; a histogram's value is its cumulative counts."""


def parse_page(text: str, pod_uid: str = "") -> PodSample:
    """One sample of every engine on the page. Raises `RefusedSampleError`: a part that is wrong spoils the whole.

    `pod_uid`: of the pod whose page this should be, where that is known.
    """
    return sample_of(_samples(text), pod_uid)


def sample_of(samples: Iterable[PageSample], pod_uid: str = "") -> PodSample:
    """The same of the page's samples, wherever they were read."""
    page = _Page(samples)
    if not page.values:
        raise RefusedSampleError(f"the page has none of the plugin's metrics ({names.PREFIX}...)")
    shown_uid = page.info.get(names.LABEL_POD_UID)
    if pod_uid and shown_uid and shown_uid != pod_uid:
        raise RefusedSampleError(
            f"the page is that of another pod (UID {shown_uid}): with hostNetwork, pods of one node need a "
            f"{names.ENV_PORT} each"
        )
    off = next((hook for hook in INDISPENSABLE_HOOKS if not page.hooks.get(hook, True)), None)
    if off is not None:
        raise RefusedSampleError(
            f"the plugin's hook {off} is off, its figures stand still: the pod's log says why, a new pod tries again"
        )
    engines = page.engines()
    if len(engines) > MOST_ENGINES or any(len(text) > LONGEST_TEXT for text in (*engines, *page.texts)):
        # What a page names anew each time would fill memory and history.
        raise RefusedSampleError(
            f"the page has {len(engines)} engines, or a text longer than {LONGEST_TEXT} characters: no vLLM has as much"
        )
    nothing_to_size = _nothing_to_size(page, engines)
    if nothing_to_size is not None:
        raise nothing_to_size
    if not engines:
        raise RefusedSampleError(f"the page has no {names.KV_CACHE_CAPACITY_BYTES}: vLLM is still starting")
    if page.values.keys().isdisjoint(_OF_A_SCHEDULER):
        return PodSample(
            plugin_version=page.plugin_version,
            engines=(),
            hooks=page.hooks,
            members={engine: _ranks(page, engine) for engine in engines},
        )
    if not (page.buckets or page.histograms) or not page.hooks.get(_REUSE_HOOK, True):
        raise RefusedSampleError(f"the page has no {names.KV_REUSE_DISTANCE_BYTES}: {_NO_ONE_ORDER}")
    return PodSample(
        plugin_version=page.plugin_version,
        engines=tuple(_engine_sample(page, engine) for engine in engines),
        hooks=page.hooks,
    )


def _nothing_to_size(page: _Page, engines: Sequence[str]) -> NothingToSizeError | None:
    """Why a page that is as it should be says nothing of a pool's size; None where it does."""
    if any(info.get("override") == names.OVERRIDE_KVCACHED for info in page.engine_infos.values()):
        message = "kvcached manages this vLLM's KV cache, which is elastic already: its size is left alone"
        return NothingToSizeError(KVCACHED, message)
    asleep = [engine for engine in engines if page.value(names.ENGINE_ASLEEP, engine, default=0)]
    if asleep:
        message = f"vLLM sleeps (engine {', '.join(asleep)}): its KV cache is off the device until it wakes up"
        return NothingToSizeError(ASLEEP, message)
    sizes = (names.KV_CACHE_CAPACITY_BYTES, names.KV_CACHE_BLOCK_BYTES)
    if engines and not any(page.value(size, engine, default=1) for engine in engines for size in sizes):
        message = "the model keeps no KV cache (it pools or embeds): there is nothing to size"
        return NothingToSizeError(NO_KV_CACHE, message)
    return None


class _Page:
    """The samples of a page by metric, engine and rank; only what the plugin exports, each value checked."""

    def __init__(self, samples: Iterable[PageSample]) -> None:
        self.values: dict[str, dict[Key, float]] = {}
        self.components: dict[Key, float] = {}
        self.buckets: dict[str, dict[int, float]] = {}
        self.histograms: dict[str, tuple[int, ...]] = {}
        self.info: dict[str, str] = {}
        self.engine_infos: dict[str, Mapping[str, str]] = {}
        self.hooks: dict[str, bool] = {}
        for name, labels, value in samples:
            if isinstance(value, tuple):
                self._take_histogram(name, labels, value)
            else:
                self._take(name, labels, value)

    def _take(self, name: str, labels: Mapping[str, str], value: float) -> None:
        if name == names.BUILD_INFO:
            self.info.update(labels)
            return
        if name == names.ENGINE_INFO:
            self.engine_infos[labels.get(names.LABEL_ENGINE, "")] = labels
            return
        if name == names.HOOKS_ACTIVE:
            self.hooks[labels.get(names.LABEL_HOOK, "")] = value != 0
            return
        if name in _ABOUT_THE_PLUGIN:
            return
        if math.isnan(value) or math.isinf(value) or value < 0:
            raise RefusedSampleError(f"{name} is {value:g}")
        key = (labels.get(names.LABEL_ENGINE, ""), labels.get(names.LABEL_RANK, ""))
        if name == _OF_THE_REUSE_HISTOGRAM[0]:
            bucket = _bucket_index(labels.get("le", ""))
            of_engine = self.buckets.setdefault(key[0], {})
            if bucket in of_engine:
                raise RefusedSampleError(f"{name} stands twice on the page for le={labels.get('le')!r}")
            of_engine[bucket] = value
        elif name == names.RUNTIME_OVERHEAD_BYTES:
            self.components[key] = self.components.get(key, 0.0) + value
        else:
            of_metric = self.values.setdefault(name, {})
            if key in of_metric:
                raise RefusedSampleError(f"{name} stands twice on the page")
            of_metric[key] = value

    def _take_histogram(self, name: str, labels: Mapping[str, str], cumulative: tuple[int, ...]) -> None:
        engine = labels.get(names.LABEL_ENGINE, "")
        if name != names.KV_REUSE_DISTANCE_BYTES:
            return
        if engine in self.histograms:
            raise RefusedSampleError(f"{name}_bucket stands twice on the page")
        self.histograms[engine] = cumulative

    def engines(self) -> list[str]:
        return sorted({engine for engine, _ in self.values.get(names.KV_CACHE_CAPACITY_BYTES, {})})

    def info_of(self, engine: str) -> Mapping[str, str]:
        """How the engine was configured: two servers in a container may have different models."""
        return self.engine_infos.get(engine, self.engine_infos.get("", {}))

    @property
    def plugin_version(self) -> str:
        return self.info.get("plugin_version") or self.info.get("version") or ""

    @property
    def texts(self) -> Iterator[str]:
        """All that it calls things by and that is kept."""
        for info in (self.info, *self.engine_infos.values()):
            yield from info.values()

    def ranks(self, engine: str) -> list[str]:
        found = {rank for of, rank in self.values.get(names.MODEL_WEIGHTS_BYTES, {}) if of in (engine, "")}
        return sorted(found, key=lambda rank: (len(rank), rank))

    def value(self, metric: str, engine: str, rank: str = "", default: float | None = None) -> float:
        """The value for an engine and rank; where the page has it without one of the labels, that one."""
        found = self.values.get(metric, {})
        for key in ((engine, rank), (engine, ""), ("", rank), ("", "")):
            if key in found:
                return found[key]
        if not rank:
            # About blocks, an engine's figures are those of its first rank.
            of_ranks = sorted((key[1], value) for key, value in found.items() if key[0] in (engine, ""))
            if of_ranks:
                return of_ranks[0][1]
        if default is None:
            raise RefusedSampleError(f"the page has no {metric}")
        return default

    def overhead(self, engine: str, rank: str) -> float:
        keys = ((engine, rank), ("", rank), (engine, ""), ("", ""))
        return next((self.components[key] for key in keys if key in self.components), 0.0)

    def reuse(self, engine: str) -> tuple[int, ...]:
        whole = self.histograms.get(engine, self.histograms.get(""))
        if whole is not None:
            return whole
        found = self.buckets.get(engine, self.buckets.get(""))
        if found is None:
            raise RefusedSampleError(f"the page has no {names.KV_REUSE_DISTANCE_BYTES} of engine {engine}")
        if len(found) != BUCKETS:
            raise RefusedSampleError(
                f"{names.KV_REUSE_DISTANCE_BYTES} has {len(found)} buckets instead of {BUCKETS}: "
                "another release of the plugin?"
            )
        counts = tuple(_count(names.KV_REUSE_DISTANCE_BYTES, found[index]) for index in range(BUCKETS))
        if any(later < earlier for earlier, later in itertools.pairwise(counts)):
            raise RefusedSampleError(f"{names.KV_REUSE_DISTANCE_BYTES} is not cumulative")
        return counts


def _samples(text: str) -> Iterator[PageSample]:
    """Every sample of ours on the page: what else vLLM exports there is neither read nor judged."""
    if text.startswith("["):
        yield from _compact_samples(text)
        return
    ours = "\n".join(line for line in text.splitlines() if line.startswith(names.PREFIX))
    try:
        for family in text_string_to_metric_families(ours + "\n"):
            for sample in family.samples:
                yield sample.name, sample.labels, float(sample.value)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise RefusedSampleError(f"the page is no Prometheus text: {error}") from error


def _compact_samples(text: str) -> Iterator[PageSample]:
    """The same from the plugin's compact page (`names.COMPACT_TYPE`), where a histogram in order stands as a whole."""
    try:
        for name, given, value in json.loads(text):
            if not name.startswith(names.PREFIX):
                continue
            labels = {label: str(text) for label, text in given.items()}
            if isinstance(value, list) and _in_order(value):
                yield name, labels, tuple(value)
            elif isinstance(value, list):
                for bound, count in zip(_COMPACT_BOUNDS, value, strict=True):
                    yield f"{name}_bucket", {**labels, "le": bound}, float(count)
            else:
                yield name, labels, float(value)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise RefusedSampleError(f"the page is no compact page: {error}") from error


def _in_order(cumulative: list[object]) -> bool:
    """Is it a histogram as the plugin writes it? What is not is looked at bucket by bucket, to say what is wrong."""
    if len(cumulative) != BUCKETS or set(map(type, cumulative)) != {int}:
        return False
    counts: list[int] = cumulative  # type: ignore[assignment]  # the line above has looked
    return counts[0] >= 0 and counts[-1] <= LARGEST_COUNT and not any(map(operator.gt, counts, counts[1:]))


def _bucket_index(bound: str) -> int:
    try:
        limit = float(bound)
    except ValueError:
        limit = math.nan
    if limit == math.inf:
        return BUCKETS - 1
    index = _BUCKET_OF.get(f"{limit:.9e}")
    if index is None:
        raise RefusedSampleError(f"{names.KV_REUSE_DISTANCE_BYTES} has the unknown bound {bound!r}")
    return index


def _count(metric: str, value: float) -> int:
    if value > LARGEST_COUNT:
        raise RefusedSampleError(f"{metric} is {value:g}, more than can have been counted")
    return round(value)


def _size(metric: str, value: float, least: int = 0, most: int = LARGEST_BYTES) -> int:
    if not least <= value <= most:
        raise RefusedSampleError(f"{metric} is {value:g}, which cannot be: {least} to {most} is possible")
    return round(value)


def _engine_sample(page: _Page, engine: str) -> EngineSample:
    def size(metric: str, least: int = 0, most: int = LARGEST_BYTES) -> int:
        return _size(metric, page.value(metric, engine), least, most)

    def count(metric: str) -> int:
        return _count(metric, page.value(metric, engine))

    info = page.info_of(engine)
    block_bytes = size(names.KV_CACHE_BLOCK_BYTES, least=1)
    capacity = size(names.KV_CACHE_CAPACITY_BYTES, least=block_bytes)
    counters = Counters(
        requests=count(names.REQUESTS),
        lookup_tokens=count(names.LOOKUP_TOKENS),
        hit_tokens=count(names.HIT_TOKENS),
        preemptions=count(names.PREEMPTIONS),
        admissions_blocked=count(names.ADMISSIONS_BLOCKED),
        reuse=pack(page.reuse(engine)),
    )
    if counters.hit_tokens > counters.lookup_tokens:
        raise RefusedSampleError(
            f"{names.HIT_TOKENS} is {counters.hit_tokens}, more than the {counters.lookup_tokens} looked up"
        )
    return EngineSample(
        engine=engine,
        facts=EngineFacts(
            vllm_version=info.get("vllm_version", ""),
            model=info.get("model", ""),
            block_bytes=block_bytes,
            block_tokens=size(names.KV_CACHE_BLOCK_TOKENS, least=1, most=_LARGEST_BLOCK_TOKENS),
            capacity_bytes=capacity,
            floor_bytes=size(names.KV_FLOOR_BYTES),
            ranks=_ranks(page, engine),
            windows=info.get("sliding_window_groups", "0") != "0",
            max_model_len=_tokens(info.get("max_model_len", "")),
            override=info.get("override", ""),
        ),
        active_bytes=size(names.KV_CACHE_ACTIVE_BYTES, most=capacity),
        active_peak_bytes=size(names.KV_CACHE_ACTIVE_PEAK_BYTES, most=capacity),
        reusable_bytes=size(names.KV_CACHE_REUSABLE_BYTES, most=capacity),
        demand_peak_bytes=size(names.KV_DEMAND_PEAK_BYTES),
        counters=counters,
    )


def _tokens(text: str) -> int:
    """Of an optional label: 0 where it holds no number."""
    return int(text) if text.isdecimal() and len(text) <= _DIGITS_OF_TOKENS else 0


def _ranks(page: _Page, engine: str) -> tuple[Rank, ...]:
    return tuple(_rank(page, engine, rank) for rank in page.ranks(engine) or [""])


def _rank(page: _Page, engine: str, rank: str) -> Rank:
    def size(metric: str, least: int = 0) -> int:
        return _size(metric, page.value(metric, engine, rank), least)

    # Blocks are the scheduler's: a page may give their bytes for the engine's first rank only.
    block_bytes = _size(
        names.KV_CACHE_BLOCK_BYTES, _of_rank_or_first(page, names.KV_CACHE_BLOCK_BYTES, engine, rank), 1
    )
    capacity = _of_rank_or_first(page, names.KV_CACHE_CAPACITY_BYTES, engine, rank)
    return Rank(
        rank=rank,
        weights_bytes=size(names.MODEL_WEIGHTS_BYTES),
        overhead_bytes=_size(names.RUNTIME_OVERHEAD_BYTES, page.overhead(engine, rank)),
        capacity_bytes=_size(names.KV_CACHE_CAPACITY_BYTES, capacity, block_bytes),
        block_bytes=block_bytes,
        total_bytes=size(names.GPU_MEMORY_TOTAL_BYTES, least=1),
        allocated_bytes=size(names.GPU_MEMORY_ALLOCATED_BYTES),
        reserved_bytes=_size(
            names.KV_CACHE_RESERVED_BYTES, page.value(names.KV_CACHE_RESERVED_BYTES, engine, rank, default=0)
        ),
    )


def _of_rank_or_first(page: _Page, metric: str, engine: str, rank: str) -> float:
    first = page.value(metric, engine)
    return page.value(metric, engine, rank, default=first)
