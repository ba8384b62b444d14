"""Reports as a pool and a worker make them, and a page read back by Prometheus' own client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from vllm_plugin import formats
from vllm_plugin.page import families

MIB = 1 << 20


def engine(number: int = 0, server: str = "1-0") -> dict[str, Any]:
    counts = [0] * 146
    counts[8], counts[16], counts[-1] = 5, 7, 3
    return {
        "server": server,
        "engine": number,
        "block_bytes": MIB,
        "block_tokens": 16,
        "capacity_bytes": 100 * MIB,
        "active_bytes": 5 * MIB,
        "active_peak_bytes": 9 * MIB,
        "asleep": 0,
        "demand_peak_bytes": 11 * MIB,
        "reusable_bytes": 50 * MIB,
        "headroom_bytes": 4 * MIB,
        "floor_bytes": 33 * MIB,
        "preemptions": 1,
        "admissions_blocked": 2,
        "requests": 30,
        "lookup_tokens": 4000,
        "hit_tokens": 1000,
        "reuse_counts": counts,
        "reuse_sum_bytes": 12345,
        "info": {"model": 'a "quoted"\\ name', "override": "none"},
    }


def worker(number: int = 0, rank: int = 0, server: str = "1-0") -> dict[str, Any]:
    return {
        "server": server,
        "engine": number,
        "rank": rank,
        "weights_bytes": 200 * MIB,
        "capacity_bytes": 100 * MIB,
        "block_bytes": MIB,
        "reserved_bytes": 7 * MIB,
        "total_bytes": 1000 * MIB,
        "allocated_bytes": 500 * MIB,
        "overhead_bytes": {"activations": 1, "cuda_graphs": 2, "non_torch": 3, "other": 4},
        "info": {},
    }


def snapshot(pid: int = 1, started: int = 1, **parts: Any) -> dict[str, Any]:
    hooks = {"lookup": {"active": True, "errors": 0, "seconds": 0.5}}
    base = {"pid": pid, "started": started, "version": "1", "loaded_from": "here", "engines": [], "workers": []}
    return {**base, "hooks": hooks, **parts}


def render(snapshots: Sequence[Mapping[str, Any]]) -> str:
    """The page in Prometheus' text format."""
    return formats.text(families(snapshots))


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


ENGINE_0 = (("engine", "0"),)
RANK_0 = (("engine", "0"), ("rank", "0"))
