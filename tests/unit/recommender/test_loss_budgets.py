"""A day's loss budget: what is spent, what a restart costs, and when the pool must grow."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import BLOCK_BYTES, BLOCK_TOKENS, facts, packed, series

from recommender.api.policies import PolicySpec
from recommender.api.recommendations import LossBudget, RecommendationStatus
from recommender.curves import HitRateCurve
from recommender.evaluation import assess, loss_budget_status
from recommender.histograms import unpack
from recommender.intervals import Series
from recommender.loss_budgets import GROWTH_STEPS, Period, Spending, loss_budget_bound, spend
from recommender.targets import pools_of
from recommender.windows import Window

HOUR = 3600.0
W, SLOT, DAY = 48 * HOUR, HOUR / 2, 24 * HOUR
DAYS = 48
BEGIN = 1000 * DAY
"""When the judged day begins."""
OWN_BLOCKS, SMALL_BLOCKS = 4000, 1000
LOSS = 0.01
BUSY = 50
DAY_TOKENS = DAYS * 400 * BUSY * BLOCK_TOKENS
THETA = 0.85
Distances = list[int | None]


def slot_of(deep_share: float, lookups: int = 400, seed: int = 0) -> Distances:
    """Lookups of which `deep_share` are lost by the small pool and hit in the own one, far apart in size."""
    draw = random.Random(seed)
    return [
        (draw.randrange(1200, 3500) if draw.random() < deep_share else draw.randrange(20, 300))
        if draw.random() < 0.9
        else None
        for _ in range(lookups)
    ]


def busy(calm: Series) -> Series:
    """The same traffic, `BUSY` times as much: a day looks up many times what a pool holds."""
    return replace(
        calm,
        intervals=tuple(
            replace(it, lookup_tokens=BUSY * it.lookup_tokens, reuse=BUSY * it.reuse) for it in calm.intervals
        ),
    )


def account(days: Sequence[Distances], elapsed: int, blocks: int, before: Period | None = None) -> Spending:
    """`days`: the two days before, then today's slots as far as `elapsed`; the small pool has run since it began."""
    now = BEGIN + elapsed * SLOT
    assert len(days) == 2 * DAYS + elapsed
    past = busy(series(days[: 2 * DAYS], W, BEGIN, facts(OWN_BLOCKS), pod="before"))
    running = facts(blocks)
    today = busy(series(days[2 * DAYS :], W, now, running, pod="now"))
    all_series: list[Series] = [past, today] if elapsed else [past]
    window = Window.of(all_series, now, W)
    pools = pools_of([running], facts(OWN_BLOCKS).capacity_bytes)
    return spend(window, pools, LOSS, THETA, before or Period(start=BEGIN))


def a_day(deep_share: float, slots: int = DAYS, seed: int = 0) -> list[Distances]:
    return [slot_of(deep_share, seed=seed + index) for index in range(slots)]


def test_the_own_pool_spends_nothing() -> None:
    days = [*a_day(0.02), *a_day(0.02, seed=100), *a_day(0.2, 20, seed=200)]
    found = account(days, 20, OWN_BLOCKS)
    assert (found.spent_tokens, found.projected_tokens, found.grow_to_bytes) == (0, 0, None)
    assert found.budget_tokens == pytest.approx(LOSS * DAY_TOKENS, rel=0.01)


def test_spent_is_what_the_pool_that_ran_has_lost() -> None:
    today = a_day(0.02, 20, seed=200)
    found = account([*a_day(0.005), *a_day(0.005, seed=100), *today], 20, SMALL_BLOCKS)
    lost = sum(d is not None and SMALL_BLOCKS < d < OWN_BLOCKS for slot in today for d in slot)
    assert found.spent_tokens == pytest.approx(BUSY * lost * BLOCK_TOKENS, rel=0.02)


def test_days_like_those_before_do_not_grow() -> None:
    """0.8 % of tokens would be lost, of 1 % that may be: all day long the small pool stays."""
    for elapsed in range(0, DAYS, 5):
        days = [*a_day(0.008), *a_day(0.008, seed=100), *a_day(0.008, elapsed, seed=200)]
        assert account(days, elapsed, SMALL_BLOCKS).grow_to_bytes is None


def test_a_bad_day_grows_once_and_keeps_its_budget() -> None:
    """Today loses three times as much as the days before: growth comes, not at once, and the budget is kept."""
    today = a_day(0.03, DAYS, seed=200)
    period, grown_at, spent = Period(start=BEGIN), None, 0.0
    for elapsed in range(DAYS):
        found = account([*a_day(0.009), *a_day(0.009, seed=100), *today[:elapsed]], elapsed, SMALL_BLOCKS, period)
        period = found.period
        if found.grow_to_bytes is not None:
            grown_at, spent, size = elapsed, found.spent_tokens, found.grow_to_bytes
            break
    assert grown_at is not None
    assert 3 <= grown_at <= 16
    left = unpack(BUSY * sum(packed(slot) for slot in today[grown_at:]))
    curve = HitRateCurve(left, BLOCK_TOKENS, DAY_TOKENS * (DAYS - grown_at) // DAYS)
    rest = curve.loss(size, OWN_BLOCKS * BLOCK_BYTES) * curve.lookup_tokens
    assert spent + period.restart_tokens + rest <= LOSS * DAY_TOKENS
    # A second time in the same day it does not, be it twice as bad a day.
    worse = [*a_day(0.009), *a_day(0.009, seed=100), *today[:grown_at], *a_day(0.04, 3, seed=300)]
    assert account(worse, grown_at + 3, SMALL_BLOCKS, period).grow_to_bytes is None


def flooded(slots: int, deep_share: float, blocks: int = SMALL_BLOCKS, period: Period | None = None) -> Spending:
    """A quiet morning, then so many slots with other traffic."""
    today = [*a_day(0.001, 10, seed=200), *a_day(deep_share, slots, seed=300)]
    days = [*a_day(0.001), *a_day(0.001, seed=100), *today]
    return account(days, 10 + slots, blocks, period)


def test_other_traffic_is_answered_within_the_hour() -> None:
    """A third of all hits goes: nothing of the kind was there before, and the days before say nothing about it."""
    assert flooded(1, 0.3).grow_to_bytes is None
    found = flooded(2, 0.3)
    assert found.grow_to_bytes is not None
    assert found.grow_to_bytes > 2 * SMALL_BLOCKS * BLOCK_BYTES
    assert found.projected_tokens > found.budget_tokens
    assert (found.period.grown_bytes, found.period.grown_at) == (found.grow_to_bytes, BEGIN + 12 * SLOT)
    assert found.period.restart_tokens > 0


def test_it_is_answered_for_a_second_time_in_a_day() -> None:
    earlier = Period(start=BEGIN, grown_bytes=SMALL_BLOCKS * BLOCK_BYTES, grown_at=BEGIN + SLOT)
    assert flooded(3, 0.3, period=earlier).grow_to_bytes is not None


def test_growth_that_waits_for_its_restart_is_paid_once() -> None:
    """Pods that start anew only some day: each evaluation sees the same, and no restart comes of it."""
    asked = flooded(2, 0.3)
    again = flooded(3, 0.3, period=asked.period)
    assert again.period == asked.period
    assert again.projected_tokens > again.budget_tokens
    bound = loss_budget_bound(again)
    assert bound is not None
    assert bound.kv_bytes == OWN_BLOCKS * BLOCK_BYTES


def test_a_smaller_growth_takes_nothing_from_that_of_the_day_before() -> None:
    """No pod has been started with it yet."""
    near: Distances = [1050 if index % 25 == 0 else 100 for index in range(400)]
    yesterday = Period(BEGIN, grown_bytes=3000 * BLOCK_BYTES, grown_at=BEGIN - HOUR)
    found = account([near] * (2 * DAYS + 8), 8, SMALL_BLOCKS, yesterday)
    assert found.grow_to_bytes == found.period.grown_bytes == 3000 * BLOCK_BYTES


def test_a_bad_hour_is_no_other_traffic() -> None:
    """Three times what is allowed, or one slot of it: the day's account decides, as ever."""
    assert flooded(2, 0.03).grow_to_bytes is None
    calm_again = [*a_day(0.001, 10, seed=200), slot_of(0.5, seed=7), slot_of(0.0, seed=8)]
    days = [*a_day(0.001), *a_day(0.001, seed=100), *calm_again]
    assert account(days, 12, SMALL_BLOCKS, Period(BEGIN, grown_bytes=1, grown_at=BEGIN)).grow_to_bytes is None


def test_the_own_pool_has_nothing_to_grow_to() -> None:
    assert flooded(3, 0.5, blocks=OWN_BLOCKS).grow_to_bytes is None


def test_it_is_answered_where_a_restart_is_dear() -> None:
    """A day looks up hardly more than the cache holds, and is of no use at all to other traffic."""
    loop: Distances = [900, None] * 2
    lost: Distances = [2500, None] * 2
    found = account([*[loop] * (2 * DAYS + 10), lost, lost], 12, SMALL_BLOCKS)
    assert not found.adaptable
    assert found.grow_to_bytes is not None


def test_the_smallest_step_that_keeps_the_budget_is_taken() -> None:
    """What is lost lies just above the small pool: a sixth more is enough."""
    near: Distances = [1050 if index % 25 == 0 else 100 for index in range(400)]
    assert account([near] * (2 * DAYS + 7), 7, SMALL_BLOCKS).grow_to_bytes is None
    found = account([near] * (2 * DAYS + 8), 8, SMALL_BLOCKS)
    assert found.grow_to_bytes == int(SMALL_BLOCKS * GROWTH_STEPS[0]) * BLOCK_BYTES
    bound = loss_budget_bound(found)
    assert bound is not None
    assert bound.kv_bytes == found.grow_to_bytes


def test_where_a_restart_costs_too_much_the_size_is_static() -> None:
    """Nearly all of a full cache comes back, and a day looks up hardly more than it holds."""
    loop: Distances = [900, None] * 2
    assert not account([loop] * (2 * DAYS), 0, SMALL_BLOCKS).adaptable
    assert account([*a_day(0.02), *a_day(0.02, seed=100)], 0, SMALL_BLOCKS).adaptable


def test_growth_is_remembered_for_the_length_of_the_window() -> None:
    grown = Period(start=BEGIN, restart_tokens=500.0, grown_bytes=7, grown_at=BEGIN + 6 * HOUR)
    days = [*a_day(0.001), *a_day(0.001, seed=100)]

    def at(days_later: int) -> Period:
        moved = replace(grown, start=BEGIN - days_later * DAY, grown_at=BEGIN - days_later * DAY + 6 * HOUR)
        return account(days, 0, SMALL_BLOCKS, moved).period

    assert at(0) == grown
    assert (at(1).start, at(1).restart_tokens, at(1).grown_bytes) == (BEGIN, 0.0, 7)
    assert at(2).grown_bytes == 7
    assert (at(3).grown_bytes, at(3).grown_at) == (0, None)


def test_nothing_observed_spends_nothing() -> None:
    empty: list[Distances] = [[] for _ in range(2 * DAYS)]
    found = account(empty, 0, SMALL_BLOCKS)
    assert found.share(found.spent_tokens) == 0.0
    assert found.grow_to_bytes is None


class LruCache:
    """Blocks in the order of their last use; counts hits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def look_up(self, block: int) -> bool:
        hit = block in self._blocks
        self._blocks[block] = None
        self._blocks.move_to_end(block)
        if len(self._blocks) > self._size:
            self._blocks.popitem(last=False)
        return hit


@cache
def zipf_accesses(skew: float) -> tuple[list[int], Distances]:
    """Blocks looked up, and how many others since the last time."""
    draw = random.Random(3)
    weights = list(accumulate(1 / (rank + 1) ** skew for rank in range(1500)))
    accesses = draw.choices(range(1500), cum_weights=weights, k=15_000)
    order: OrderedDict[int, None] = OrderedDict()
    distances: Distances = []
    for block in accesses:
        distances.append(len(order) - list(order).index(block) - 1 if block in order else None)
        order[block] = None
        order.move_to_end(block)
    return accesses, distances


@pytest.mark.parametrize("size", [200, 600])
@pytest.mark.parametrize("skew", [0.6, 1.0])
def test_what_a_restart_costs(skew: float, size: int) -> None:
    """Against emptying a real LRU cache, nine times over."""
    accesses, distances = zipf_accesses(skew)
    curve = HitRateCurve(unpack(packed(distances[3000:])), BLOCK_TOKENS, 12_000 * BLOCK_TOKENS)
    lost = []
    warm = LruCache(size)
    kept = [warm.look_up(block) for block in accesses]
    for restart in range(3000, 12_000, 1000):
        cold = LruCache(size)
        new = [cold.look_up(block) for block in accesses[restart:]]
        lost.append(sum(kept[restart:]) - sum(new))
    expected = sum(lost) / len(lost)
    assert curve.restart_cost((size + 1) * BLOCK_BYTES, BLOCK_BYTES) == pytest.approx(expected, rel=0.15)


@given(
    distances=st.lists(st.one_of(st.none(), st.integers(0, 3000)), min_size=1, max_size=100),
    blocks=st.integers(1, 5000),
)
@settings(max_examples=60)
def test_a_restart_costs_at_most_the_pool(distances: Distances, blocks: int) -> None:
    curve = HitRateCurve(unpack(packed(distances)), BLOCK_TOKENS, len(distances) * BLOCK_TOKENS)
    assert 0 <= curve.restart_cost(blocks * BLOCK_BYTES, BLOCK_BYTES) <= blocks


def test_the_account_goes_through_the_status() -> None:
    """What is remembered of a day is remembered by the object that is written."""
    days = [*a_day(0.02), *a_day(0.02, seed=100)]
    policy = PolicySpec(loss_budget=THETA)
    written = RecommendationStatus(
        loss_budget=LossBudget(
            period_start=datetime.fromtimestamp(BEGIN, UTC),
            budget_tokens=10,
            spent_tokens=5,
            projected_tokens=9,
            restart_tokens=1,
            restarted_tokens=3,
            grown_kv_bytes=2000 * BLOCK_BYTES,
            grown_at=datetime.fromtimestamp(BEGIN + HOUR, UTC),
        )
    )
    read = RecommendationStatus.model_validate_json(written.model_dump_json(by_alias=True))
    running = facts(SMALL_BLOCKS)
    now = BEGIN + 4 * SLOT
    seen = busy(series([*days, *a_day(0.02, 4, seed=200)], W, now, facts(OWN_BLOCKS)))
    found = assess(policy, (seen,), (running,), read, (), now)
    assert found.sizing is not None
    assert found.sizing.spending is not None
    period = found.sizing.spending.period
    assert (period.start, period.restart_tokens, period.grown_bytes) == (BEGIN, 3, 2000 * BLOCK_BYTES)
    assert found.sizing.kv_bytes is not None
    assert found.sizing.kv_bytes >= 2000 * BLOCK_BYTES
    assert "lossBudget" in {bound.name for bound in found.sizing.bounds}
    assert loss_budget_status(found.sizing.spending).grown_kv_bytes == 2000 * BLOCK_BYTES


def test_with_a_budget_pools_start_smaller() -> None:
    seen = busy(series([*a_day(0.02), *a_day(0.02, seed=100)], W, BEGIN, facts(OWN_BLOCKS), demand_blocks=100))

    def asked(policy: PolicySpec) -> int:
        found = assess(policy, (seen,), (facts(OWN_BLOCKS),), RecommendationStatus(), (), BEGIN).sizing
        assert found is not None
        return next(bound.kv_bytes for bound in found.bounds if bound.name == "hitRate")

    assert asked(PolicySpec(loss_budget=THETA)) == pytest.approx(asked(PolicySpec()) / 1.1, rel=1e-6)
