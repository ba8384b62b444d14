"""What asks for how large a pool: each rule of docs/sizing.md as a function with one answer. Pure.

All sizes are bytes of the pool of one engine (its first rank), null block included.
"""

from __future__ import annotations

from dataclasses import dataclass

from recommender.api.policies import HitRateLoss, PolicySpec
from recommender.api.recommendations import Bound
from recommender.api.units import format_bytes
from recommender.curves import HitRateCurve
from recommender.knees import worst_knees
from recommender.windows import STRIDES, Window, nearest_rank

HIT_RATE, DEMAND, FLOOR, MIN_KV, MAX_KV = "hitRate", "demand", "floor", "minKV", "maxKV"
POOL, HYSTERESIS, PRESSURE, GROWTH, DEVICE, HELD = "pool", "hysteresis", "pressure", "growth", "device", "held"
LOSS_BUDGET = "lossBudget"

CAUTION_FACTOR = {"Normal": 1.1, "High": 1.2}
"""g: what days to come differ from those seen (docs/sizing.md §2)."""

LARGEST_BLOCKED_SHARE = 0.001
"""More blocked admissions than this, of all requests, and the pod is short of KV."""

WATCHED_FACTOR = {"Normal": 1.0, "High": 1.08}
"""g where a loss budget is watched: the pool may grow on the few days that need it (docs/sizing.md §6)."""

HYSTERESIS_SHARE = 0.10
"""A size sinks only when it has been asked for a tenth less; a pod under pressure grows by at least as much."""

_LIKE_TODAYS = 0.95
"""Pools of one workload differ by some blocks: vLLM measures anew at each start what is free. One that has grown
differs by a tenth."""

LARGEST_UTILIZATION = 0.95
"""No growth beyond this share of a GPU: vLLM refuses to start where less is free than it claims, and the CUDA context
takes some of the rest."""


@dataclass(frozen=True)
class Pools:
    """The pools that a new size is held against. `own`: what the workload's own arguments make, the largest seen under
    its fingerprint; losses are measured against it, so that sizing again after a shrink does not shrink again.
    `today`: what its pods run with now. `device`: what the GPU has room for.
    """

    today_bytes: int
    own_bytes: int
    device_bytes: int
    floor_bytes: int
    block_bytes: int
    block_tokens: int


@dataclass(frozen=True)
class Knees:
    """Smallest pools that keep the hit rate: over the whole window, and the policy's percentile of the rolling ones."""

    allowed_loss: float
    whole_bytes: float
    rolling_bytes: float
    rolling_windows: int


def allowed_loss(curve: HitRateCurve, own_bytes: float, limits: HitRateLoss) -> float:
    """ε as a share of tokens: the stricter of the points and of the percentage of the misses (docs/sizing.md §2)."""
    misses = 1.0 - curve.hit_rate(own_bytes)
    return min(limits.points / 100, limits.miss_ratio_percent / 100 * misses)


def knees(window: Window, pools: Pools, policy: PolicySpec) -> Knees:
    """K48 and K8 of docs/sizing.md §2, each the knee of the worst pod; ε is that of the whole window for both."""
    epsilon = allowed_loss(window.curve(), pools.own_bytes, policy.hit_rate_loss)
    found = worst_knees(window, epsilon, pools.own_bytes, policy.window_coverage, policy.percentile)
    return Knees(epsilon, found.whole, found.whole if found.rolling is None else found.rolling, found.parts)


def hit_rate_bound(found: Knees, policy: PolicySpec, g: float) -> Bound:
    """C_hit = g · K48^¼ · K8^¾ (docs/sizing.md §2)."""
    size = g * found.whole_bytes**0.25 * found.rolling_bytes**0.75
    return Bound(
        name=HIT_RATE,
        kv_bytes=round(size),
        message=(
            f"loses at most {100 * found.allowed_loss:.2f} points of hit rate: {g} × "
            f"{format_bytes(found.whole_bytes)}^¼ (knee of the whole window) × {format_bytes(found.rolling_bytes)}^¾ "
            f"(percentile {policy.percentile} of the knees of {found.rolling_windows} rolling windows)"
        ),
    )


def demand_bound(window: Window, pools: Pools, policy: PolicySpec) -> Bound:
    """C_demand: percentile of the demand peaks × (1 + margin), and the null block."""
    peaks = window.demand_peaks()
    peak = nearest_rank(peaks, policy.percentile)
    return Bound(
        name=DEMAND,
        kv_bytes=round(peak * (1 + policy.demand_margin_percent / 100)) + pools.block_bytes,
        message=(
            f"percentile {policy.percentile} of the demand peaks of {len(peaks)} intervals is {format_bytes(peak)}; "
            f"plus {policy.demand_margin_percent:g} % and the null block"
        ),
    )


def floor_bound(pools: Pools) -> Bound:
    """Below the floor vLLM refuses to start."""
    return Bound(name=FLOOR, kv_bytes=pools.floor_bytes, message="one request of max_model_len and the null block")


def min_kv_bound(policy: PolicySpec) -> Bound | None:
    """What the policy asks for at least."""
    if policy.min_kv_bytes is None:
        return None
    return Bound(name=MIN_KV, kv_bytes=policy.min_kv_bytes, message=f"the policy's minKV is {policy.min_kv}")


def max_kv_bound(policy: PolicySpec, pools: Pools) -> Bound | None:
    """What the policy allows at most; where vLLM would not start with that, the floor."""
    if policy.max_kv_bytes is None:
        return None
    conflict = max_kv_conflict(policy, pools)
    if conflict:
        return Bound(name=FLOOR, kv_bytes=pools.floor_bytes, message=conflict)
    return Bound(name=MAX_KV, kv_bytes=policy.max_kv_bytes, message=f"the policy's maxKV is {policy.max_kv}")


def max_kv_conflict(policy: PolicySpec, pools: Pools) -> str:
    """The sentence for a maxKV with which vLLM would not start; empty where it would."""
    if policy.max_kv_bytes is None or policy.max_kv_bytes >= pools.floor_bytes:
        return ""
    return (
        f"the policy's maxKV is {policy.max_kv}, below the {format_bytes(pools.floor_bytes)} without which vLLM does "
        "not start: the floor wins"
    )


def pool_bound(pools: Pools) -> Bound:
    """No more than the workload's own arguments give, unless it is short."""
    return Bound(name=POOL, kv_bytes=pools.own_bytes, message="the pool that the workload's own arguments make")


def device_bound(pools: Pools) -> Bound:
    """No more than the GPU has room for."""
    message = f"the larger of the own pool and what {LARGEST_UTILIZATION:.0%} of the GPU has room for"
    return Bound(name=DEVICE, kv_bytes=max(pools.device_bytes, pools.own_bytes), message=message)


def pressure_bound(window: Window, pools: Pools) -> Bound | None:
    """A pod that is short of KV is never shrunk: what it does with less cannot be seen from here."""
    reasons = _signs_of_pressure(window)
    if not reasons:
        return None
    message = f"{' and '.join(reasons)} in the window: never less than the pool it has"
    return Bound(name=PRESSURE, kv_bytes=pools.today_bytes, message=message)


def growth_bound(window: Window, pools: Pools, policy: PolicySpec) -> Bound | None:
    """More, at once, where the last W/48 shows that the pool is too small; None where it does not."""
    lately = window.latest(window.seconds / STRIDES)
    # What smaller pools lack, until all pods have today's, says nothing of that one.
    reasons = _signs_of_pressure(lately.of_pools_from(_LIKE_TODAYS * pools.today_bytes))
    demand = max(lately.demand_peaks(), default=0.0) + pools.block_bytes
    # A pool of today's size: a peak seen before the pool grew says nothing of the one that runs now.
    rows = lately.columns.rows
    if demand > pools.today_bytes and (rows["demand_peak_bytes"] + pools.block_bytes > rows["capacity_bytes"]).any():
        reasons.append(f"a demand of {format_bytes(demand)} above the pool")
    if not reasons:
        return None
    margin = max(policy.demand_margin_percent / 100, HYSTERESIS_SHARE)
    size = max(demand, pools.today_bytes) * (1 + margin)
    return Bound(
        name=GROWTH,
        kv_bytes=round(size),
        message=(
            f"{' and '.join(reasons)} lately: short by {format_bytes(max(size - pools.today_bytes, 0))}, {margin:.0%} "
            f"more than the larger of pool and demand"
        ),
    )


def _signs_of_pressure(window: Window) -> list[str]:
    reasons = []
    if window.preemptions:
        reasons.append(f"{window.preemptions} preemptions")
    if window.blocked_share > LARGEST_BLOCKED_SHARE:
        reasons.append(f"{window.blocked_share:.2%} of admissions blocked for KV")
    return reasons
