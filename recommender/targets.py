"""From a pool in blocks to what vLLM is told: bytes, allocation, utilization, flags. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from recommender.api.recommendations import Range, Savings, Target
from recommender.api.sizing_flags import (
    FIRST_VERSION_WITH_KV_BYTES,
    GPU_MEMORY_UTILIZATION,
    KV_CACHE_MEMORY_BYTES,
    parse_version,
)
from recommender.api.units import format_bytes
from recommender.bounds import LARGEST_UTILIZATION, Pools
from recommender.samples import EngineFacts, Rank
from recommender.sizing import Sizing

_UTILIZATION_STEPS = 10_000
"""`--gpu-memory-utilization` is written with four decimals."""


def pools_of(engines: Sequence[EngineFacts], own_bytes: int) -> Pools:
    """What a new size is held against: the engines that run now, and the own pool as far as it is known."""
    # One flag serves all engines of all pods: the largest of each.
    first = max(engines, key=lambda engine: engine.capacity_bytes)
    room = min(_blocks_with_room(rank) for engine in engines for rank in engine.ranks)
    return Pools(
        today_bytes=first.capacity_bytes,
        own_bytes=max(own_bytes, first.capacity_bytes),
        device_bytes=room * first.block_bytes,
        floor_bytes=max(engine.floor_bytes for engine in engines),
        block_bytes=first.block_bytes,
        block_tokens=first.block_tokens,
    )


def target_of(
    sizing: Sizing, pools: Pools, engines: Sequence[EngineFacts], seen: Iterable[EngineFacts] = ()
) -> Target | None:
    """What the next pod is to start with; None where sizing has no answer, or one that the smallest of the workload's
    GPUs has no room for: nobody knows on which of them the pod will start. `engines` run now, others were `seen`."""
    if sizing.kv_bytes is None:
        return None
    blocks = sizing.kv_bytes // pools.block_bytes
    ranks = [rank for engine in engines for rank in engine.ranks]
    if not _have_room([*ranks, *(rank for engine in seen for rank in engine.ranks)], blocks):
        return None
    # What vLLM takes off these bytes comes on top of the pool.
    kv_bytes = blocks * max(rank.block_bytes for rank in ranks) + max(rank.reserved_bytes for rank in ranks)
    allocations = [rank.outside_pool_bytes + blocks * rank.block_bytes for rank in ranks]
    utilization = max(
        utilization_of(allocation, rank.total_bytes) for allocation, rank in zip(allocations, ranks, strict=True)
    )
    flags = [f"{GPU_MEMORY_UTILIZATION}={utilization}"]
    if all(_takes_kv_bytes(engine.vllm_version) for engine in engines):
        flags.append(f"{KV_CACHE_MEMORY_BYTES}={kv_bytes}")
    return Target(
        kv_bytes=kv_bytes,
        kv_blocks=blocks,
        allocation_bytes=max(allocations),
        gpu_memory_utilization=utilization,
        flags=flags,
        predicted_hit_rate=sizing.predicted_hit_rate,
        bound_by=sizing.bound_by,
    )


def why_no_target(sizing: Sizing) -> str:
    """The sentence for a `target_of` that is None."""
    if sizing.kv_bytes is None:
        return sizing.message
    return (
        f"{format_bytes(sizing.kv_bytes)} of KV cache would do, and the smallest GPU that pods run on has no room for "
        "it: keep them to GPUs of one size (nodeSelector), and each size of GPU is looked at by itself"
    )


def utilization_of(allocation_bytes: int, total_bytes: int) -> str:
    """The fraction as vLLM is given it, rounded up at the fourth decimal.

    A byte is forgiven: where vLLM claims exactly what it was told, sizing again must come to the same fraction.
    """
    steps = -((1 - allocation_bytes) * _UTILIZATION_STEPS // total_bytes)
    steps = min(max(steps, 1), _UTILIZATION_STEPS)
    return f"{steps // _UTILIZATION_STEPS}.{steps % _UTILIZATION_STEPS:04d}"


def savings_of(target: Target, pools: Pools) -> Savings:
    """What a pod gives back of the pool that its own arguments make."""
    given_back = pools.own_bytes - target.kv_blocks * pools.block_bytes
    return Savings(bytes=given_back, share_of_pool=round(given_back / pools.own_bytes, 4))


def gpu_totals(engines: Iterable[EngineFacts]) -> Range:
    """Smallest and largest GPU memory of all ranks: only where they are equal does one fraction serve all."""
    totals = [rank.total_bytes for engine in engines for rank in engine.ranks]
    return Range(min=min(totals), max=max(totals))


def _have_room(ranks: Sequence[Rank], blocks: int) -> bool:
    """Whether GPUs of several sizes can all hold such a pool. What GPUs of one size hold, sizing knows."""
    if len({rank.total_bytes for rank in ranks}) == 1:
        return True
    return all(blocks <= max(_blocks_with_room(rank), rank.capacity_bytes // rank.block_bytes) for rank in ranks)


def _blocks_with_room(rank: Rank) -> int:
    room = math.floor(LARGEST_UTILIZATION * rank.total_bytes) - rank.outside_pool_bytes
    return max(room, 0) // rank.block_bytes


def _takes_kv_bytes(vllm_version: str) -> bool:
    version = parse_version(vllm_version)
    return version is not None and version >= FIRST_VERSION_WITH_KV_BYTES
