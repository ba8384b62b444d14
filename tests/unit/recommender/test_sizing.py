"""Policies and what they choose."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import BLOCK_BYTES, GiB, MiB, facts, series

from recommender.api.policies import PolicySpec
from recommender.bounds import Pools
from recommender.intervals import Series
from recommender.sizing import Before, Sizing, size
from recommender.targets import pools_of
from recommender.windows import Window, nearest_rank

HOUR = 3600.0
W = 48 * HOUR
NOW = 1_000_000 * W / 96
OWN = facts(blocks=4096)
POOLS = pools_of([OWN], OWN.capacity_bytes)


def policy(**spec: Any) -> PolicySpec:
    return PolicySpec.model_validate(spec)


def traffic(deepest: int = 1200, lookups: int = 60, intervals: int = 96, seed: int = 1) -> list[list[int | None]]:
    """Lookups that come back from at most `deepest` blocks, evenly; a quarter is new."""
    draw = random.Random(seed)
    return [
        [None if draw.random() < 0.25 else draw.randrange(deepest) for _ in range(lookups)] for _ in range(intervals)
    ]


def window(*pods: Series) -> Window:
    return Window.of(pods or (series(traffic(), W, NOW),), NOW, W)


def bound(sizing: Sizing, name: str) -> int:
    return next(one.kv_bytes for one in sizing.bounds if one.name == name)


def blocks(sizing: Sizing) -> int:
    assert sizing.kv_bytes is not None
    assert sizing.kv_bytes % BLOCK_BYTES == 0
    return sizing.kv_bytes // BLOCK_BYTES


@pytest.mark.parametrize(
    ("spec", "demand", "bound_by", "expected"),
    [
        # The knee of an even spread over 1,200 blocks lies a little below its end; × 1.1.
        ({}, 300, "hitRate", (1237, 1352)),
        ({"caution": "High"}, 300, "hitRate", (1349, 1475)),
        ({"hitRateLoss": {"points": 10, "missRatioPercent": 100}}, 300, "hitRate", (1095, 1238)),
        ({}, 1400, "demand", (1541, 1541)),
        ({"demandMarginPercent": 0}, 1400, "demand", (1401, 1401)),
        ({"demandMarginPercent": 50}, 1400, "demand", (2101, 2101)),
        ({"minKV": "6Gi"}, 300, "minKV", (3072, 3072)),
        ({"minKV": "80Gi"}, 300, "pool", (4096, 4096)),
        ({"maxKV": "1Gi"}, 300, "maxKV", (512, 512)),
        ({"maxKV": "1Gi", "minKV": "2Gi"}, 300, "maxKV", (512, 512)),
        ({"maxKV": "100Mi"}, 300, "floor", (257, 257)),
        # Neither round: up to a whole block.
        ({"minKV": str(6 * GiB + 1)}, 300, "minKV", (3073, 3073)),
    ],
)
def test_what_a_policy_chooses(spec: dict[str, Any], demand: int, bound_by: str, expected: tuple[int, int]) -> None:
    sizing = size(window(series(traffic(), W, NOW, demand_blocks=demand)), POOLS, policy(**spec))
    assert sizing.bound_by == bound_by
    assert expected[0] <= blocks(sizing) <= expected[1]
    assert sizing.message


@pytest.mark.parametrize(
    ("percentile", "expected"), [(100, 960), (99, 960), (95, 920), (90, 870), (85, 820), (80, 770)]
)
def test_percentile_of_the_demand_peaks(percentile: int, expected: int) -> None:
    demands = [10 * (index + 1) for index in range(96)]
    observed = window(series(traffic(deepest=200), W, NOW, demand_blocks=demands))
    sizing = size(observed, POOLS, policy(percentile=percentile, demandMarginPercent=0))
    assert bound(sizing, "demand") == (expected + 1) * BLOCK_BYTES


@pytest.mark.parametrize(
    ("values", "percentile", "expected"),
    [([5], 80, 5), ([1, 2, 3, 4, 5], 100, 5), ([1, 2, 3, 4, 5], 80, 4), ([5, 1, 4, 2, 3], 81, 5), ([], 99, 0)],
)
def test_nearest_rank(values: list[float], percentile: float, expected: float) -> None:
    assert nearest_rank(values, percentile) == expected


def test_busy_hours_count_three_quarters() -> None:
    """A third of a day with a deep working set: K8 sees it alone, K48 with the rest (docs/sizing.md §2)."""
    calm, busy = traffic(deepest=400, intervals=80), traffic(deepest=2000, intervals=16, seed=2)
    sizing = size(window(series(calm[:40] + busy + calm[40:], W, NOW)), POOLS, policy())
    knees = sizing.knees
    assert knees is not None
    assert knees.rolling_bytes > 1.02 * knees.whole_bytes
    expected = 1.1 * knees.whole_bytes**0.25 * knees.rolling_bytes**0.75
    assert bound(sizing, "hitRate") == pytest.approx(expected, rel=1e-6)


def test_the_busier_pod_decides() -> None:
    calm = series(traffic(deepest=400, lookups=300), W, NOW, pod="calm")
    busy = series(traffic(deepest=2500, lookups=50), W, NOW, pod="busy", demand_blocks=900)
    sizing = size(window(calm, busy), POOLS, policy())
    alone = size(window(busy), POOLS, policy(minRequests=1))
    assert sizing.knees is not None
    assert alone.knees is not None
    assert sizing.knees.whole_bytes == pytest.approx(alone.knees.whole_bytes, rel=0.03)
    assert bound(sizing, "demand") == bound(alone, "demand")


# --- Guards: nothing is made smaller ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "failed"),
    [
        ([series(traffic(intervals=47), W, NOW)], "coverage"),
        ([series(traffic(), W, NOW, requests=10)], "requests"),
        ([series(traffic(lookups=30), W, NOW)], "lookups"),
        # Two pods at the same time cover no more than one, and fill no pool together.
        ([series(traffic(intervals=30), W, NOW, pod=pod) for pod in "ab"], "coverage"),
        ([series(traffic(lookups=30), W, NOW, pod=pod) for pod in "ab"], "lookups"),
    ],
)
def test_too_little_data_is_no_recommendation(pods: list[Series], failed: str) -> None:
    sizing = size(window(*pods), POOLS, policy())
    assert next(guard.name for guard in sizing.guards if not guard.passed) == failed
    assert sizing.kv_bytes is None
    held = size(window(*pods), POOLS, policy(), Before(2000 * BLOCK_BYTES, (1500 * BLOCK_BYTES,)))
    assert blocks(held) == 2000
    assert held.bound_by == "held"


@pytest.mark.parametrize(
    "spec", [{}, {"percentile": 80}, {"maxKV": "1Gi"}, {"caution": "Normal", "demandMarginPercent": 0}]
)
@pytest.mark.parametrize("pressure", [{"preemptions": 1}, {"blocked": 10}])
def test_a_pod_under_pressure_never_shrinks(spec: dict[str, Any], pressure: dict[str, int]) -> None:
    """Also where the pressure was long ago, and whatever the policy says."""
    old = series(traffic(intervals=40), W, NOW - W / 2, **pressure)
    new = series(traffic(intervals=48), W, NOW)
    observed = window(replace(old, intervals=(*old.intervals, *new.intervals)))
    sizing = size(observed, POOLS, policy(**spec))
    assert blocks(sizing) >= 4096


def test_a_few_blocked_admissions_are_no_pressure() -> None:
    """9,600 requests in all: nine are less than a thousandth."""

    def chosen(blocked: int) -> int:
        old = series(traffic(intervals=48), W, NOW - W / 2, blocked=blocked)
        new = series(traffic(intervals=48), W, NOW)
        return blocks(size(window(replace(old, intervals=(*old.intervals, *new.intervals))), POOLS, policy()))

    assert chosen(9) < 1400
    assert chosen(10) == 4096


def test_the_floor_holds_where_nothing_else_asks_for_more() -> None:
    """A context of 2,000 blocks: worth shortening, as no request comes near it."""
    long_context = facts(floor_blocks=2000)
    observed = window(series(traffic(), W, NOW, engine=long_context))
    sizing = size(observed, pools_of([long_context], 0), policy())
    assert blocks(sizing) == 2000
    assert sizing.bound_by == "floor"


# --- Growth ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intervals", [2, 96])
@pytest.mark.parametrize("pressure", [{"preemptions": 3}, {"blocked": 40}, {"demand_blocks": 1150}])
def test_growth_is_at_once_and_needs_no_coverage(intervals: int, pressure: dict[str, int]) -> None:
    """A pool of 1,000 blocks, given by us, where its own arguments make 4,096."""
    small = facts(blocks=1000)
    observed = window(series(traffic(deepest=300, intervals=intervals), W, NOW, engine=small, **pressure))
    sizing = size(observed, pools_of([small], OWN.capacity_bytes), policy(), Before(1000 * BLOCK_BYTES))
    assert sizing.bound_by == "growth"
    assert 1100 <= blocks(sizing) <= 1300


def test_pressure_of_yesterday_is_no_growth() -> None:
    old = series(traffic(intervals=40), W, NOW - W / 2, preemptions=3)
    new = series(traffic(intervals=48), W, NOW)
    sizing = size(window(replace(old, intervals=(*old.intervals, *new.intervals))), POOLS, policy())
    assert blocks(sizing) == 4096
    assert sizing.bound_by == "pressure"


def test_growth_ends_where_the_gpu_does() -> None:
    tight = facts(blocks=4096, total_bytes=18 * GiB + 4096 * BLOCK_BYTES + 200 * MiB)
    observed = window(series(traffic(), W, NOW, engine=tight, preemptions=3))
    sizing = size(observed, pools_of([tight], tight.capacity_bytes), policy())
    assert blocks(sizing) == 4096
    assert sizing.bound_by == "device"


# --- Slow shrink --------------------------------------------------------------------------------------------------


def test_a_tenth_less_is_no_reason_to_shrink() -> None:
    need = size(window(), POOLS, policy()).candidate_bytes
    assert need is not None
    before = Before(round(need * 1.09), (need,))
    assert blocks(size(window(), POOLS, policy(), before)) == -(-before.kv_bytes // BLOCK_BYTES)


def test_a_shrink_waits_for_a_sixth_of_the_window() -> None:
    need = size(window(), POOLS, policy()).candidate_bytes
    assert need is not None
    lately = Before(3000 * BLOCK_BYTES, (2900 * BLOCK_BYTES, need))
    assert blocks(size(window(), POOLS, policy(), lately)) == 3000
    a_sixth_later = Before(3000 * BLOCK_BYTES, (1600 * BLOCK_BYTES, need))
    assert blocks(size(window(), POOLS, policy(), a_sixth_later)) == 1600
    still_later = Before(1600 * BLOCK_BYTES, (need, need))
    assert size(window(), POOLS, policy(), still_later).candidate_bytes == need
    assert blocks(size(window(), POOLS, policy(), still_later)) == -(-need // BLOCK_BYTES)


def test_a_rise_does_not_wait() -> None:
    need = size(window(), POOLS, policy()).candidate_bytes
    assert need is not None
    before = Before(round(need * 0.98), (round(need * 0.98),))
    assert blocks(size(window(), POOLS, policy(), before)) == -(-need // BLOCK_BYTES)


def test_another_policy_shows_at_once() -> None:
    """No candidate under it yet: the size found under the former policy does not hold it back."""
    sizing = size(window(), POOLS, policy(), Before(3000 * BLOCK_BYTES, same_policy=False))
    assert blocks(sizing) < 1400


def test_a_pause_of_the_evaluations_does_not_end_the_hysteresis() -> None:
    """For a sixth of the window nobody asked, under the same policy: as if the former size had been asked for now."""
    sizing = size(window(), POOLS, policy(), Before(3000 * BLOCK_BYTES))
    assert blocks(sizing) == 3000
    assert sizing.bound_by == "hysteresis"
    assert sizing.candidate_bytes == 3000 * BLOCK_BYTES
    grown = size(window(), POOLS, policy(minKV="7Gi"), Before(3000 * BLOCK_BYTES))
    assert blocks(grown) == 3584


def test_the_sentence_is_that_of_the_bound_that_decided() -> None:
    """Two bounds are called floor: what vLLM starts with, and a maxKV below it."""
    sizing = size(window(), POOLS, policy(maxKV="1Mi"))
    assert sizing.bound_by == "floor"
    assert "maxKV is 1Mi" in sizing.message


def test_sizing_again_after_the_shrink_does_not_shrink_again() -> None:
    """Losses are measured against the pool of the workload's own arguments, not against the pool we gave."""
    first = size(window(), POOLS, policy())
    assert first.kv_bytes is not None
    small = facts(blocks=blocks(first))
    again = size(window(series(traffic(), W, NOW, engine=small)), pools_of([small], OWN.capacity_bytes), policy())
    assert again.kv_bytes == first.kv_bytes


# --- Properties ---------------------------------------------------------------------------------------------------

workloads = st.builds(
    lambda seed, deepest, demand, share: window(
        series(
            traffic(deepest=deepest, seed=seed)[: 96 - share]
            + traffic(deepest=deepest // 2 + 1, seed=seed)[96 - share :],
            W,
            NOW,
            demand_blocks=[demand + (seed * index) % 300 for index in range(96)],
        )
    ),
    st.integers(0, 50),
    st.integers(50, 6000),
    st.integers(0, 3000),
    st.integers(0, 60),
)


@given(workloads, st.integers(1, 20), st.integers(1, 60))
@settings(max_examples=8, deadline=None)
def test_monotone_in_percentile_and_tolerance(observed: Window, points: int, misses: int) -> None:
    def chosen(**spec: Any) -> int:
        return blocks(size(observed, POOLS, policy(**spec)))

    by_percentile = [chosen(percentile=percentile) for percentile in (80, 85, 90, 95, 99, 100)]
    assert by_percentile == sorted(by_percentile)
    wide = {"points": 2 * points, "missRatioPercent": misses}
    assert chosen(hitRateLoss=wide) <= chosen(hitRateLoss={**wide, "points": points})
    assert chosen(hitRateLoss={"points": points, "missRatioPercent": min(2 * misses, 100)}) <= chosen(
        hitRateLoss={"points": points, "missRatioPercent": misses}
    )


@given(workloads, st.sampled_from([{}, {"minKV": "5Gi"}, {"maxKV": "3Gi"}, {"percentile": 85, "caution": "High"}]))
@settings(max_examples=8, deadline=None)
def test_idempotent(observed: Window, spec: dict[str, Any]) -> None:
    """What was recommended a moment ago is recommended again."""
    first = size(observed, POOLS, policy(**spec))
    assert first.kv_bytes is not None
    assert first.candidate_bytes is not None
    again = size(observed, POOLS, policy(**spec), Before(first.kv_bytes, (first.candidate_bytes,)))
    assert again.kv_bytes == first.kv_bytes
    assert 257 * BLOCK_BYTES <= again.kv_bytes <= POOLS.own_bytes


def test_no_other_time_than_the_window_matters() -> None:
    """The same traffic, a thousand times as fast, under a window a thousand times as short."""
    slow = size(Window.of([series(traffic(), W, NOW)], NOW, W), POOLS, policy())
    fast_window = W / 1000
    now = 1_000_000 * fast_window / 96
    fast = size(
        Window.of([series(traffic(), fast_window, now)], now, fast_window),
        POOLS,
        policy(observationWindow=f"{fast_window}s"),
    )
    assert fast.kv_bytes == slow.kv_bytes


def test_pools_hold_the_largest_of_all_engines() -> None:
    pools = pools_of([facts(blocks=1000), facts(blocks=1500, floor_blocks=300)], 0)
    assert pools == Pools(
        today_bytes=1500 * BLOCK_BYTES,
        own_bytes=1500 * BLOCK_BYTES,
        device_bytes=pools.device_bytes,
        floor_bytes=300 * BLOCK_BYTES,
        block_bytes=BLOCK_BYTES,
        block_tokens=16,
    )


def test_a_curve_of_windows_gets_the_larger_factor() -> None:
    """It is an approximation: whatever the policy says."""
    exact = window(series(traffic(), W, NOW, OWN))
    rough = window(series(traffic(), W, NOW, replace(OWN, windows=True)))
    cautious = bound(size(exact, POOLS, policy(caution="High")), "hitRate")
    assert bound(size(rough, POOLS, policy()), "hitRate") == cautious > bound(size(exact, POOLS, policy()), "hitRate")
