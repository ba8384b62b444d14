"""The page that Prometheus and the recommender read: from snapshots of processes to text format 0.0.4."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Union

from vllm_plugin import names

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Labels = Mapping[str, str]
_Number = Union[int, float]
_BOUNDS = [repr(bound) for bound in names.REUSE_BUCKET_BOUNDS] + ["+Inf"]

_ENGINE_GAUGES = (
    (names.KV_CACHE_BLOCK_TOKENS, "block_tokens", "Tokens in one block of the KV cache."),
    (names.KV_CACHE_ACTIVE_BYTES, "active_bytes", "KV blocks that requests hold now."),
    (names.KV_CACHE_ACTIVE_PEAK_BYTES, "active_peak_bytes", "Most KV blocks that requests held in the last 60 s."),
    (names.KV_CACHE_REUSABLE_BYTES, "reusable_bytes", "Cached KV blocks that no request holds."),
    (names.KV_DEMAND_PEAK_BYTES, "demand_peak_bytes", "Most KV held, and needed to admit a request, in the last 60 s."),
    (names.PREFIX_CACHE_HEADROOM_BYTES, "headroom_bytes", "KV beyond the active peak that keeps the hit rate."),
    (names.KV_FLOOR_BYTES, "floor_bytes", "KV below which this vLLM refuses to start."),
)
_ENGINE_COUNTERS = (
    (names.PREEMPTIONS, "preemptions", "Requests that lost their blocks to others."),
    (names.ADMISSIONS_BLOCKED, "admissions_blocked", "Requests that had to wait for KV blocks."),
    (names.REQUESTS, "requests", "Requests admitted."),
    (names.LOOKUP_TOKENS, "lookup_tokens", "Tokens of requests at their first lookup in the prefix cache."),
    (names.HIT_TOKENS, "hit_tokens", "Tokens of these that were in the prefix cache."),
)
_RANK_GAUGES = (
    (names.MODEL_WEIGHTS_BYTES, "weights_bytes", "Model weights on this rank."),
    (names.KV_CACHE_CAPACITY_BYTES, "capacity_bytes", "The KV pool as allocated, null block included."),
    (names.KV_CACHE_BLOCK_BYTES, "block_bytes", "Bytes of one KV block on this rank."),
    (names.GPU_MEMORY_TOTAL_BYTES, "total_bytes", "Device memory as this process sees it."),
    (names.GPU_MEMORY_ALLOCATED_BYTES, "allocated_bytes", "Device memory that vLLM claims on this rank."),
)


def render(snapshots: Sequence[Mapping[str, Any]]) -> str:
    """The whole page. `snapshots`: of all living processes that belong together."""
    page = _Page()
    engines = _labelled(snapshots, "engines")
    workers = _labelled(snapshots, "workers")
    known = {(labels[names.LABEL_ENGINE], labels[names.LABEL_RANK]) for labels, _ in workers}
    # Before its worker reports, or where that runs in another pod, an engine's own figures stand for rank 0.
    ranks = workers + [
        (labels, {"capacity_bytes": engine["capacity_bytes"], "block_bytes": engine["block_bytes"]})
        for labels, engine in engines
        if (labels[names.LABEL_ENGINE], "0") not in known
    ]
    for name, field, text in _RANK_GAUGES:
        page.family(name, "gauge", text, ((labels, rank.get(field)) for labels, rank in ranks))
    page.family(
        names.RUNTIME_OVERHEAD_BYTES,
        "gauge",
        "Device memory besides weights and KV pool.",
        (
            ({**labels, names.LABEL_COMPONENT: component}, worker["overhead_bytes"].get(component))
            for labels, worker in workers
            for component in names.OVERHEAD_COMPONENTS
        ),
    )
    per_engine = [({names.LABEL_ENGINE: labels[names.LABEL_ENGINE]}, engine) for labels, engine in engines]
    for name, field, text in _ENGINE_GAUGES:
        page.family(name, "gauge", text, ((labels, engine.get(field)) for labels, engine in per_engine))
    for name, field, text in _ENGINE_COUNTERS:
        page.family(name, "counter", text, ((labels, engine.get(field)) for labels, engine in per_engine))
    page.histogram(
        names.KV_REUSE_DISTANCE_BYTES,
        "Pool size, null block included, from which on each full block looked up is a hit.",
        [
            (labels, engine["reuse_counts"], engine["reuse_sum_bytes"])
            for labels, engine in per_engine
            if engine["reuse_counts"]
        ],
    )
    _hooks(page, snapshots)
    build = {(snapshot["version"], snapshot["loaded_from"]) for snapshot in snapshots}
    page.family(
        names.BUILD_INFO,
        "gauge",
        "The plugin's version and where it was loaded from.",
        (({"version": version, "loaded_from": origin}, 1) for version, origin in sorted(build)),
    )
    page.family(
        names.ENGINE_INFO,
        "gauge",
        "How each engine was configured.",
        (({**labels, **engine["info"]}, 1) for labels, engine in per_engine),
    )
    return page.text()


def _hooks(page: _Page, snapshots: Sequence[Mapping[str, Any]]) -> None:
    hooks = [(name, hook) for snapshot in snapshots for name, hook in snapshot["hooks"].items()]
    by_name = sorted({name for name, _ in hooks})
    page.family(
        names.HOOK_SECONDS,
        "counter",
        "Time spent in the plugin's own code.",
        [({}, sum(hook["seconds"] for _, hook in hooks))],
    )
    page.family(
        names.HOOK_ERRORS,
        "counter",
        "Errors in the plugin's own code, swallowed.",
        (({names.LABEL_HOOK: name}, sum(h["errors"] for n, h in hooks if n == name)) for name in by_name),
    )
    page.family(
        names.HOOKS_ACTIVE,
        "gauge",
        "0 where a hook found nothing to hook or is off after errors; reuse: 0 for several KV cache groups (no curve).",
        (({names.LABEL_HOOK: name}, int(all(h["active"] for n, h in hooks if n == name))) for name in by_name),
    )


def _labelled(snapshots: Sequence[Mapping[str, Any]], kind: str) -> list[tuple[dict[str, str], Mapping[str, Any]]]:
    """Engines or workers with their labels. Engines of a second server in the pod are told apart by a prefix."""
    servers: list[str] = []
    for snapshot in sorted(snapshots, key=lambda snapshot: (snapshot.get("started") or 0, snapshot["pid"])):
        for report in [*snapshot["engines"], *snapshot["workers"]]:
            if report["server"] not in servers:
                servers.append(report["server"])
    found = []
    for snapshot in snapshots:
        for report in snapshot[kind]:
            server = servers.index(report["server"])
            engine = str(report["engine"]) if server == 0 else f"{server}.{report['engine']}"
            labels = {names.LABEL_ENGINE: engine, names.LABEL_RANK: str(report.get("rank", 0))}
            found.append((labels, report))
    return sorted(found, key=lambda pair: sorted(pair[0].items()))


class _Page:
    """Lines of the text format."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(self, name: str, kind: str, text: str, samples: Iterable[tuple[_Labels, Any]]) -> None:
        """One metric; samples without a value are left out, and the metric with them."""
        lines = [f"{name}{_braces(labels)} {_number(value)}" for labels, value in samples if value is not None]
        if lines:
            self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines]

    def histogram(self, name: str, text: str, series: Sequence[tuple[_Labels, Sequence[int], int]]) -> None:
        """A classic histogram: cumulative buckets, sum and count."""
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} histogram"] if series else []
        for labels, counts, total in series:
            inside = _braces(labels)[1:-1]
            before = f"{name}_bucket{{{inside}," if inside else f"{name}_bucket{{"
            sums = list(accumulate(counts)) or [0]
            self._lines += [f'{before}le="{bound}"}} {count}' for bound, count in zip(_BOUNDS, sums)]
            self._lines += [f"{name}_sum{{{inside}}} {total}", f"{name}_count{{{inside}}} {sums[-1]}"]

    def text(self) -> str:
        """All of it."""
        return "\n".join(self._lines) + "\n"


def _braces(labels: _Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items()) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: _Number) -> str:
    return repr(value)
