"""What stands on the page that Prometheus and the recommender read: from snapshots of processes to metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from vllm_plugin import names

Labels = Mapping[str, str]


class Histogram(NamedTuple):
    """Observations by bucket (bounds: `names.REUSE_BUCKET_BOUNDS`, then +Inf), not cumulative, and their sum."""

    counts: Sequence[int]
    total: int


class Family(NamedTuple):
    """One metric with all its samples. `kind`: gauge, counter, histogram, or info (a gauge of labels)."""

    name: str
    kind: str
    text: str
    samples: Sequence[tuple[Labels, int | float | Histogram]]


_ENGINE_GAUGES = (
    (names.KV_CACHE_BLOCK_TOKENS, "block_tokens", "Tokens in one block of the KV cache."),
    (names.KV_CACHE_ACTIVE_BYTES, "active_bytes", "KV blocks that requests hold now."),
    (names.KV_CACHE_ACTIVE_PEAK_BYTES, "active_peak_bytes", "Most KV blocks that requests held in the last 60 s."),
    (names.KV_CACHE_REUSABLE_BYTES, "reusable_bytes", "Cached KV blocks that no request holds."),
    (names.KV_DEMAND_PEAK_BYTES, "demand_peak_bytes", "Most KV held, and needed to admit a request, in the last 60 s."),
    (names.PREFIX_CACHE_HEADROOM_BYTES, "headroom_bytes", "KV beyond the active peak that keeps the hit rate."),
    (names.KV_FLOOR_BYTES, "floor_bytes", "KV below which this vLLM refuses to start."),
    (names.ENGINE_ASLEEP, "asleep", "1 while vLLM sleeps: its KV cache or weights are off the device."),
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
    (names.KV_CACHE_RESERVED_BYTES, "reserved_bytes", "What vLLM takes off its KV cache to decode pictures; if any."),
    (names.KV_CACHE_BLOCK_BYTES, "block_bytes", "Bytes of one KV block on this rank."),
    (names.GPU_MEMORY_TOTAL_BYTES, "total_bytes", "Device memory as this process sees it."),
    (names.GPU_MEMORY_ALLOCATED_BYTES, "allocated_bytes", "Device memory that vLLM claims on this rank."),
)


def families(snapshots: Sequence[Mapping[str, Any]]) -> list[Family]:
    """All metrics that have a sample. `snapshots`: of all living processes that belong together."""
    engines = _labelled(snapshots, "engines", (names.LABEL_ENGINE,))
    workers = _labelled(snapshots, "workers", (names.LABEL_ENGINE, names.LABEL_RANK))
    found = [
        *_of_ranks(engines, workers),
        *(_family(name, "gauge", text, _values(engines, field)) for name, field, text in _ENGINE_GAUGES),
        *(_family(name, "counter", text, _values(engines, field)) for name, field, text in _ENGINE_COUNTERS),
        _family(
            names.KV_REUSE_DISTANCE_BYTES,
            "histogram",
            "Pool size, null block included, from which on each full block looked up is a hit.",
            (
                (labels, Histogram(engine["reuse_counts"], engine["reuse_sum_bytes"]))
                for labels, engine in engines
                if engine["reuse_counts"]
            ),
        ),
        *_of_hooks(snapshots),
        _family(
            names.BUILD_INFO,
            "info",
            "The plugin's version, where it was loaded from, and which pod this is, where the pod says so.",
            ((labels, 1) for labels in _builds(snapshots)),
        ),
        _family(
            names.ENGINE_INFO,
            "info",
            "How each engine was configured.",
            (({**labels, **_readable(engine["info"])}, 1) for labels, engine in engines),
        ),
    ]
    return [family for family in found if family.samples]


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[Labels, Any]]) -> Family:
    """One metric; samples without a value are left out."""
    return Family(name, kind, text, [(labels, value) for labels, value in samples if value is not None])


_Reports = Sequence[tuple[dict[str, str], Mapping[str, Any]]]


def _values(reports: _Reports, field: str) -> Iterable[tuple[Labels, Any]]:
    return ((labels, report.get(field)) for labels, report in reports)


def _of_ranks(engines: _Reports, workers: _Reports) -> Iterable[Family]:
    known = {(labels[names.LABEL_ENGINE], labels[names.LABEL_RANK]) for labels, _ in workers}
    # Before its worker reports, or where that runs in another pod, an engine's own figures stand for rank 0.
    ranks = [
        *workers,
        *(
            (
                {**labels, names.LABEL_RANK: "0"},
                {"capacity_bytes": engine["capacity_bytes"], "block_bytes": engine["block_bytes"]},
            )
            for labels, engine in engines
            if (labels[names.LABEL_ENGINE], "0") not in known
        ),
    ]
    for name, field, text in _RANK_GAUGES:
        yield _family(name, "gauge", text, _values(ranks, field))
    yield _family(
        names.RUNTIME_OVERHEAD_BYTES,
        "gauge",
        "Device memory besides weights and KV pool.",
        (
            ({**labels, names.LABEL_COMPONENT: component}, worker["overhead_bytes"].get(component))
            for labels, worker in workers
            for component in names.OVERHEAD_COMPONENTS
        ),
    )


def _of_hooks(snapshots: Sequence[Mapping[str, Any]]) -> Iterable[Family]:
    hooks = [(name, hook) for snapshot in snapshots for name, hook in snapshot["hooks"].items()]
    by_name = sorted({name for name, _ in hooks})
    yield _family(
        names.HOOK_SECONDS,
        "counter",
        "Time spent in the plugin's own code, its start included.",
        [({}, sum(hook["seconds"] for _, hook in hooks))],
    )
    yield _family(
        names.HOOK_ERRORS,
        "counter",
        "Errors in the plugin's own code, swallowed.",
        (({names.LABEL_HOOK: name}, sum(h["errors"] for n, h in hooks if n == name)) for name in by_name),
    )
    yield _family(
        names.HOOKS_ACTIVE,
        "gauge",
        "0 where a hook found nothing to hook or is off after errors; reuse: 0 for several KV cache groups (no curve).",
        (({names.LABEL_HOOK: name}, int(all(h["active"] for n, h in hooks if n == name))) for name in by_name),
    )


def _builds(snapshots: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The distinct builds of the plugin in these processes."""
    found: list[dict[str, str]] = []
    for snapshot in snapshots:
        build = {"version": snapshot["version"], "loaded_from": snapshot["loaded_from"]}
        if snapshot.get("pod_uid"):
            build[names.LABEL_POD_UID] = snapshot["pod_uid"]
        build = _readable(build)
        if build not in found:
            found.append(build)
    return sorted(found, key=lambda build: sorted(build.items()))


def _readable(labels: Labels) -> dict[str, str]:
    """Values as every form can write them: in a path that is no UTF-8, Python keeps bytes that have no character."""
    return {name: text.encode(errors="replace").decode() for name, text in labels.items()}


def _labelled(snapshots: Sequence[Mapping[str, Any]], kind: str, labels: Sequence[str]) -> _Reports:
    """Engines or workers with their labels, each once: ranks that torchrun starts all run the same scheduler."""
    found: dict[tuple[str, ...], tuple[dict[str, str], Mapping[str, Any]]] = {}
    for snapshot in sorted(snapshots, key=lambda snapshot: (snapshot.get("started") or 0, snapshot["pid"])):
        numbers = snapshot.get("servers") or servers_of(snapshot)
        # The newest first: vLLM may build a scheduler anew before the old one is gone.
        for report in reversed(snapshot[kind]):
            server = numbers.get(report["server"], 0)
            values = {
                names.LABEL_ENGINE: f"{server}.{report['engine']}" if server else str(report["engine"]),
                names.LABEL_RANK: str(report.get("rank", 0)),
            }
            key = tuple(values[label] for label in labels)
            found.setdefault(key, ({label: values[label] for label in labels}, report))
    return [found[key] for key in sorted(found, key=lambda key: [(len(value), value) for value in key])]


def servers_of(snapshot: Mapping[str, Any]) -> dict[str, int]:
    """The vLLM servers that a process belongs to, numbered as if there were no others."""
    servers = dict.fromkeys(report["server"] for report in (*snapshot["engines"], *snapshot["workers"]))
    return {server: number for number, server in enumerate(servers)}
