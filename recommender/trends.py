"""What a dashboard shows of the last 30 days: a point every half hour, of each workload and of the cluster. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recommender.api.object_store import Raw
from recommender.api.recommendations import Target
from recommender.api.sharing import WHOLE_GPU
from recommender.bounds import Pools
from recommender.gpu_nodes import gpu_node
from recommender.samples import EngineFacts
from recommender.windows import Window

KEPT_SECONDS = 30 * 86_400.0
SLOT_SECONDS = 1_800.0
CLUSTER = "cluster"
"""The subject of the points that only tell what the Nodes have."""


@dataclass(frozen=True)
class Point:
    """Bytes of GPU memory at one moment, of all reporting pods of a workload together. None: not known."""

    used_bytes: int | None = None
    """Weights, overhead, and the most that running requests held during the newest interval."""
    recommended_bytes: int | None = None
    """What they would claim with what is recommended."""
    requested_bytes: int | None = None
    """What they claim."""
    original_bytes: int | None = None
    """What they would claim with their authors' arguments."""
    allocatable_bytes: int | None = None
    """Of the cluster: what its Nodes can give to pods."""


def slot_of(at: float) -> float:
    """The half hour that `at` is in; one point is kept of each."""
    return math.floor(at / SLOT_SECONDS) * SLOT_SECONDS


def point_of(
    window: Window | None, engines: Sequence[EngineFacts], pools: Pools | None, target: Target | None
) -> Point | None:
    """The point of a workload whose `engines` report; None where none does."""
    if window is None or pools is None or not engines or window.last is None:
        return None
    ranks = [rank for engine in engines for rank in engine.ranks]
    newest = window.columns.rows[window.columns.ends >= window.last]
    # An interval knows its engine's first rank; the others hold as much.
    busiest = float(newest["active_peak_bytes"].mean())
    outside = sum(rank.outside_pool_bytes for rank in ranks)
    own_blocks = pools.own_bytes // pools.block_bytes
    return Point(
        used_bytes=sum(rank.weights_bytes + rank.overhead_bytes for rank in ranks) + round(busiest * len(ranks)),
        recommended_bytes=outside + sum(target.kv_blocks * rank.block_bytes for rank in ranks) if target else None,
        requested_bytes=outside + sum(rank.capacity_bytes for rank in ranks),
        original_bytes=outside + sum(own_blocks * rank.block_bytes for rank in ranks),
    )


def allocatable_point(nodes: Iterable[Raw]) -> Point:
    """Of all Nodes whose labels tell how large their GPUs are."""
    found = 0
    for raw in nodes:
        allocatable = ((raw.get("status") or {}).get("allocatable") or {}).get(WHOLE_GPU)
        if str(allocatable).isdecimal():
            node, count = gpu_node(raw), int(str(allocatable))
            # Shared in time, a Node has more of the resource than it has cards.
            found += min(count, node.gpus or count) * node.memory_bytes
    return Point(allocatable_bytes=found)
