"""How much of a day's allowed loss is spent, and when a pool must grow to keep the rest: docs/sizing.md §6. Pure.

A day is W/2. Its budget is what `hitRateLoss` allows over it, in tokens. Spent is what the pools that ran have lost
against the own pool, by the curve, and what restarts cost. A size that is chosen for an average day is kept until the
smallest larger one that still keeps the budget would be too small an interval later: most days end before that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recommender import bounds
from recommender.api.recommendations import Bound
from recommender.api.units import format_bytes
from recommender.bounds import Pools
from recommender.curves import HitRateCurve
from recommender.intervals import INTERVALS_PER_WINDOW, interval_seconds
from recommender.windows import ROLLING_PARTS, Window

DAYS_PER_WINDOW = 2
_SLOTS = INTERVALS_PER_WINDOW // DAYS_PER_WINDOW
"""Intervals of a day."""

DEAREST_RESTART = 0.35
"""A restart empties the cache. Where that costs a larger share of the day's budget, growing during the day is no
remedy: such a workload gets one size for all days, a cautious one."""

GROWTH_STEPS = (1.15, 1.3, 1.5, 2.0)
"""Tried in this order; the own pool after them."""

LARGEST_LOSS_LATELY = 0.25
"""Of the day's budget, lost within W/48, which is a twenty-fourth of the day: other traffic has come. Then the pool
grows whatever the days before say, a second time in a day and where restarts are dear, too, if it is worth one."""
_LATELY_SLOTS = 2
_FLOOD_SLOTS = INTERVALS_PER_WINDOW // ROLLING_PARTS
"""W/6: how long it is taken to go on."""

_PRIOR = 0.25
"""How far the day differs from those before is measured against them; so much of a day counts as having been equal."""
_CALMEST, _BUSIEST = 0.5, 4.0
"""Bounds of that difference: a few quiet or loud hours say no more."""


@dataclass(frozen=True)
class Period:
    """What is remembered of the day that runs. Times in seconds since the epoch."""

    start: float
    restart_tokens: float = 0.0
    """What restarts have cost in it."""
    grown_bytes: int = 0
    grown_at: float | None = None
    """The last growth; it may have been in an earlier period."""


@dataclass(frozen=True)
class Spending:
    """Where the day stands, in tokens. `grow_to_bytes`: what must run from now on; None where today's pool will do."""

    period: Period
    budget_tokens: float
    spent_tokens: float
    projected_tokens: float
    """Spent at the end of the day, if today's pool stays."""
    restart_tokens: float
    """What a restart with today's pool would cost."""
    grow_to_bytes: int | None = None

    @property
    def adaptable(self) -> bool:
        """Is a restart cheap enough for growing during the day?"""
        return self.restart_tokens <= DEAREST_RESTART * self.budget_tokens

    def growing(self, to_bytes: int, at: float, cost: float) -> Spending:
        """The same where the pool grows now, at the cost of a restart."""
        restarted = self.period.restart_tokens + cost
        # On an earlier day it may have grown to more, which no pod has yet.
        grown = max(to_bytes, self.period.grown_bytes)
        period = replace(self.period, grown_bytes=grown, grown_at=at, restart_tokens=restarted)
        return replace(self, period=period, grow_to_bytes=grown)

    def share(self, tokens: float) -> float:
        """Of the budget."""
        return tokens / self.budget_tokens if self.budget_tokens else 0.0


def spend(window: Window, pools: Pools, allowed_loss: float, theta: float, before: Period | None) -> Spending:
    """The account at the window's end. `allowed_loss`: ε, a share of tokens; `theta`: how much of that may be spent."""
    slot = interval_seconds(window.seconds)
    period = _current(before, window.end, window.seconds)
    elapsed = min(round((window.end - period.start) / slot), _SLOTS)
    days = _Days(window, pools, period.start, slot)
    today, past = days.between(0, elapsed), days.before(0, elapsed)
    coming = days.before(elapsed, _SLOTS)
    whole_day = past.tokens + coming.tokens
    usual_tokens = (today.tokens + _PRIOR * whole_day) / (past.tokens + _PRIOR * whole_day) if whole_day else 1.0
    budget = allowed_loss * (today.tokens + coming.tokens * min(usual_tokens, 1.5))
    size = pools.today_bytes
    prior = _PRIOR * allowed_loss * whole_day
    usual_loss = (today.lost(size) + prior) / (past.lost(size) + prior) if prior else 1.0
    usual_loss = min(max(usual_loss, _CALMEST), _BUSIEST)
    spent = days.lost_today() + period.restart_tokens
    curve = window.curve()

    def restart(pool_bytes: int) -> float:
        return curve.restart_cost(pool_bytes, pools.block_bytes) * days.pods * pools.block_tokens

    account = Spending(
        period=period,
        budget_tokens=budget,
        spent_tokens=spent,
        projected_tokens=spent + usual_loss * coming.lost(size),
        restart_tokens=restart(size),
    )
    flood, cost = _flood(days, elapsed, size, allowed_loss, budget), restart(pools.own_bytes)
    if flood > cost:
        # Nothing is known of it yet: the own pool loses nothing, whatever it is.
        mended = replace(account, projected_tokens=max(account.projected_tokens, spent + flood))
        if _grew_in(period) and period.grown_bytes >= pools.own_bytes:
            # Asked for already: what has not been started anew since cost no other restart.
            return mended
        return mended.growing(pools.own_bytes, window.end, cost)
    if not account.adaptable or _grew_in(period) or account.projected_tokens <= theta * budget:
        return account
    soonest = max(usual_loss * days.before(elapsed, elapsed + 1).lost(size), *days.alike(elapsed, size), 0.0)
    later = days.before(elapsed + 1, _SLOTS)
    # There is one growth a day: of the two views of how bad a day it is, the worse one says what is enough.
    worst_loss = max(usual_loss, min(today.lost(size) / past.lost(size), _BUSIEST) if past.lost(size) else 0.0)
    for grown in _steps(size, pools):
        cost = restart(grown)
        if spent + cost + worst_loss * later.lost(grown) > theta * budget and grown < pools.own_bytes:
            continue
        in_time_later = spent + soonest + cost + worst_loss * later.lost(grown) <= theta * budget
        saved = usual_loss * (coming.lost(size) - coming.lost(grown))
        if in_time_later or saved <= cost or cost > DEAREST_RESTART * budget:
            return account
        return account.growing(grown, window.end, cost)
    return account


def _flood(days: _Days, elapsed: int, size: int, allowed_loss: float, budget: float) -> float:
    """Tokens that will be lost if it goes on for W/6, where other traffic has come; 0 where it has not."""
    slots = [days.between(slot, slot + 1) for slot in range(elapsed - _LATELY_SLOTS, elapsed)]
    lost = [slot.lost(size) for slot in slots]
    calm = any(one <= allowed_loss * slot.tokens for one, slot in zip(lost, slots, strict=True))
    if elapsed < _LATELY_SLOTS or calm or sum(lost) <= LARGEST_LOSS_LATELY * budget:
        return 0.0
    return sum(lost) * _FLOOD_SLOTS / _LATELY_SLOTS


def loss_budget_bound(spending: Spending | None) -> Bound | None:
    """What the pool grew to lately, during a day that would have lost too much."""
    if spending is None or not spending.period.grown_bytes:
        return None
    grown = spending.period.grown_bytes
    if spending.grow_to_bytes is None:
        message = f"grew to {format_bytes(grown)} on a day that would have lost too much: kept for the window's length"
    else:
        message = (
            f"{spending.share(spending.spent_tokens):.0%} of the day's loss budget is spent, and with today's pool "
            f"{spending.share(spending.projected_tokens):.0%} would be: {format_bytes(grown)} keeps it"
        )
    return Bound(name=bounds.LOSS_BUDGET, kv_bytes=grown, message=message)


def _current(before: Period | None, now: float, window_seconds: float) -> Period:
    """The period that `now` is in: days follow each other without a gap from the first recommendation on."""
    slot, day = interval_seconds(window_seconds), window_seconds / DAYS_PER_WINDOW
    if before is None or now < before.start:
        return Period(start=round(now / slot) * slot)
    passed = int((now - before.start) // day)
    if not passed:
        return before
    forgotten = before.grown_at is None or now - before.grown_at >= window_seconds
    return Period(
        start=before.start + passed * day,
        grown_bytes=0 if forgotten else before.grown_bytes,
        grown_at=None if forgotten else before.grown_at,
    )


def _grew_in(period: Period) -> bool:
    return period.grown_at is not None and period.grown_at >= period.start


def _steps(size: int, pools: Pools) -> Iterable[int]:
    for factor in GROWTH_STEPS:
        grown = int(size * factor) // pools.block_bytes * pools.block_bytes
        if size < grown < pools.own_bytes:
            yield grown
    if pools.own_bytes > size:
        yield pools.own_bytes


@dataclass(frozen=True)
class _Traffic:
    """Some intervals taken together; `share` of them counts."""

    curve: HitRateCurve
    own_bytes: int
    share: float = 1.0

    @property
    def tokens(self) -> float:
        return self.share * self.curve.lookup_tokens

    def lost(self, pool_bytes: int) -> float:
        """Tokens that a pool of this size would have lost against the own one."""
        return self.curve.loss(pool_bytes, self.own_bytes) * self.tokens


class _Days:
    """The window cut at the period's start: today, and the days before it, slot by slot of W/96."""

    def __init__(self, window: Window, pools: Pools, start: float, slot: float) -> None:
        self._pools = pools
        self._columns = window.columns
        self._places = np.rint((self._columns.rows["start"] - start) / slot).astype(np.int64)
        self._held = set(self._places.tolist())
        newest = max(self._held, default=0)
        self.pods = int((self._places == newest).sum())
        """Engines that reported last: each would restart."""

    def between(self, first: int, last: int) -> _Traffic:
        """Today's slots from `first` up to `last`."""
        return self._together(range(first, last))

    def before(self, first: int, last: int) -> _Traffic:
        """The same hours of the days before, as many as the window holds: their mean."""
        places = [place - day * _SLOTS for day in range(1, DAYS_PER_WINDOW + 1) for place in range(first, last)]
        held = sum(place in self._held for place in places)
        return self._together(places, (last - first) / held if held else 1.0)

    def alike(self, slot: int, pool_bytes: int) -> Iterable[float]:
        """What was lost in single slots that the next one may be like: the last one, the same ones of other days."""
        for place in (slot - 1, *(slot - day * _SLOTS for day in range(1, DAYS_PER_WINDOW + 1))):
            yield self._together((place,)).lost(pool_bytes)

    def lost_today(self) -> float:
        """Tokens lost today by the pools that really ran."""
        today = self._places >= 0
        capacities = self._columns.rows["capacity_bytes"]
        sizes = dict.fromkeys(capacities[today].tolist())
        return sum(self._traffic(today & (capacities == size)).lost(size) for size in sizes)

    def _together(self, places: Iterable[int], share: float = 1.0) -> _Traffic:
        return self._traffic(np.isin(self._places, list(places)), share)

    def _traffic(self, rows: NDArray[np.bool_], share: float = 1.0) -> _Traffic:
        some = self._columns.kept(rows)
        curve = HitRateCurve(some.cumulative(), self._pools.block_tokens, some.total("lookup_tokens"))
        return _Traffic(curve, self._pools.own_bytes, share)
