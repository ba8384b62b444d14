"""How is C chosen? The rules of `bounds` composed as docs/sizing.md says, and the guards before them. Pure.

need = max(hit rate, demand, floor, minKV)         what the window asks for; where a loss budget is watched, also
                                                   what the day's growth came to
kept = need, or what was recommended before        a size sinks slowly: by a tenth at least, and to the most that
                                                   was asked for during the last W/6; it rises at once
C    = min(kept, own pool, maxKV)                  grown beyond the own pool only under pressure, and kept so
                                                   for as long as the window shows that
C    = max(C, today's pool)                        where the window shows pressure
C    = min(C, device), in whole blocks
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from recommender import bounds
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import Bound
from recommender.api.units import format_bytes, format_duration
from recommender.bounds import Knees, Pools
from recommender.loss_budgets import Period, Spending, loss_budget_bound, spend
from recommender.windows import Window

COVERAGE, REQUESTS, LOOKUPS, PODS = "coverage", "requests", "lookups", "pods"


@dataclass(frozen=True)
class Guard:
    """A condition on the data without which nothing is made smaller."""

    name: str
    passed: bool
    message: str


@dataclass(frozen=True)
class Before:
    """What was recommended for the same fingerprint, and what sizing asked for in the last W/6.

    A size found under another policy does not hold back a smaller one, as people who change a policy expect to see
    its effect. Under the same one, without `candidates`, nobody asked for as long: then it counts as asked for now.
    """

    kv_bytes: int
    candidates: tuple[int, ...] = ()
    same_policy: bool = True


@dataclass(frozen=True)
class Sizing:
    """The answer and everything that led to it. `kv_bytes` is None where there is nothing to recommend."""

    guards: tuple[Guard, ...]
    kv_bytes: int | None = None
    bound_by: str = ""
    message: str = ""
    conflict: str = ""
    """Where the policy cannot be followed, whatever the size: a sentence."""
    shortage: str = ""
    """Where the pods need more than they may get: a sentence that says how much."""
    bounds: tuple[Bound, ...] = ()
    candidate_bytes: int | None = None
    """What is to be remembered for `Before.candidates`: what the window asks for by itself, or, after a pause of the
    evaluations, what was recommended before."""
    knees: Knees | None = None
    predicted_hit_rate: float | None = None
    spending: Spending | None = None
    """Of the day's loss budget; None where the policy has none."""


@dataclass
class _Choice:
    """A size on its way through the rules: the last rule that changed it is the one that bound it."""

    kv_bytes: int = 0
    decided: Bound | None = None
    asked: list[Bound] = field(default_factory=list)

    def at_least(self, bound: Bound | None) -> None:
        if bound is not None:
            self.asked.append(bound)
            if bound.kv_bytes > self.kv_bytes:
                self.kv_bytes, self.decided = bound.kv_bytes, bound

    def at_most(self, bound: Bound | None) -> None:
        if bound is not None:
            self.asked.append(bound)
            # The later one of the same name says more: why the floor is a ceiling, too.
            again = self.decided is not None and bound.name == self.decided.name and bound.kv_bytes == self.kv_bytes
            if bound.kv_bytes < self.kv_bytes or again:
                self.kv_bytes, self.decided = bound.kv_bytes, bound


def size(
    window: Window,
    pools: Pools,
    policy: PolicySpec,
    before: Before | None = None,
    period: Period | None = None,
    pods: Guard | None = None,
) -> Sizing:
    """The pool for the next pods of a workload. `period`: what is remembered of the loss budget's day. `pods`: whether
    the window holds data of all pods that run; None where nobody asks."""
    guards = data_guards(window, pools, policy)
    measured = all(guard.passed for guard in guards)
    if pods is not None:
        # First: of pods that are not seen the others say nothing.
        guards = (pods, *guards)
        measured = measured and (pods.passed or before is not None)
    growth = bounds.growth_bound(window, pools, policy)
    if measured:
        return _sized(window, pools, policy, before, guards, growth, period)
    if growth is not None:
        return _grown(window, pools, policy, before, guards, growth)
    if before is not None:
        return _held(window, pools, before, guards)
    message = "; ".join(guard.message for guard in guards if not guard.passed)
    return Sizing(guards, message=message, bounds=(bounds.pool_bound(pools),))


def data_guards(window: Window, pools: Pools, policy: PolicySpec) -> tuple[Guard, ...]:
    """Enough of the window, enough requests, and more tokens looked up than the pool holds once."""
    busiest = max(window.totals("lookup_tokens"), default=0)
    pool_tokens = pools.own_bytes // pools.block_bytes * pools.block_tokens
    needed = window.seconds * policy.window_coverage / 100
    return (
        Guard(
            COVERAGE,
            window.coverage_percent >= policy.window_coverage,
            f"{format_duration(window.covered_seconds)} of the window of {format_duration(window.seconds)} hold data "
            f"({window.coverage_percent:.1f} %); asked for: {format_duration(needed)} ({policy.window_coverage:g} %)",
        ),
        Guard(
            REQUESTS,
            window.requests >= policy.min_requests,
            f"{window.requests} requests came, {policy.min_requests} are asked for",
        ),
        Guard(
            LOOKUPS,
            busiest >= pool_tokens,
            f"the busiest pod looked up {busiest} tokens, its pool holds {pool_tokens}: "
            "what a smaller pool would lose shows only once the pool has been filled",
        ),
    )


def _sized(
    window: Window,
    pools: Pools,
    policy: PolicySpec,
    before: Before | None,
    guards: tuple[Guard, ...],
    growth: Bound | None,
    period: Period | None,
) -> Sizing:
    found = bounds.knees(window, pools, policy)
    spending = None
    if policy.loss_budget is not None:
        spending = spend(window, pools, found.allowed_loss, policy.loss_budget, period)
    choice = _Choice()
    for asking in (
        bounds.hit_rate_bound(found, policy, _factor(policy, spending, window.approximate)),
        loss_budget_bound(spending),
        bounds.demand_bound(window, pools, policy),
        bounds.floor_bound(pools),
        bounds.min_kv_bound(policy),
    ):
        choice.at_least(asking)
    unseen = next((guard for guard in guards if guard.name == PODS and not guard.passed), None)
    if unseen is not None and before is not None:
        message = f"{unseen.message}: what was recommended before stays, as long as the others do not need more"
        choice.at_least(Bound(name=bounds.HELD, kv_bytes=before.kv_bytes, message=message))
    candidate = choice.kv_bytes
    kept = _kept(_whole_blocks(candidate, pools), before)
    choice.at_least(kept)
    if before is not None and not before.candidates and kept is not None:
        candidate = kept.kv_bytes
    pressure = bounds.pressure_bound(window, pools)
    # What it grew to beyond the own pool stays until the window has forgotten why; pods that are not seen may know.
    beyond = before.kv_bytes if before is not None and before.kv_bytes > pools.own_bytes else None
    grown = beyond if pressure is not None else None
    if growth is None and grown is None and (unseen is None or beyond is None):
        choice.at_most(bounds.pool_bound(pools))
    else:
        choice.asked.append(bounds.pool_bound(pools))
        choice.at_least(growth)
    if grown is not None:
        message = "it was short of KV in the window: what it grew to stays"
        choice.at_least(Bound(name=bounds.HYSTERESIS, kv_bytes=grown, message=message))
    choice.at_most(bounds.max_kv_bound(policy, pools))
    choice.at_least(pressure)
    return replace(
        _in_blocks(window, pools, policy, choice, guards, growth),
        candidate_bytes=candidate,
        knees=found,
        spending=spending,
    )


def _held(window: Window, pools: Pools, before: Before, guards: tuple[Guard, ...]) -> Sizing:
    message = "there is not enough data to change it: what was recommended before stays"
    choice = _Choice()
    choice.at_least(Bound(name=bounds.HELD, kv_bytes=before.kv_bytes, message=message))
    choice.asked.append(bounds.pool_bound(pools))
    # Less than it has, not even if that was recommended before it became short.
    choice.at_least(bounds.pressure_bound(window, pools))
    decided = choice.decided
    return Sizing(
        guards,
        choice.kv_bytes,
        bounds.HELD if decided is None else decided.name,
        message if decided is None else decided.message,
        bounds=tuple(choice.asked),
    )


def _grown(
    window: Window,
    pools: Pools,
    policy: PolicySpec,
    before: Before | None,
    guards: tuple[Guard, ...],
    growth: Bound,
) -> Sizing:
    choice = _Choice()
    if before is not None:
        message = "what was recommended before"
        choice.at_least(Bound(name=bounds.HELD, kv_bytes=before.kv_bytes, message=message))
    choice.asked.append(bounds.pool_bound(pools))
    choice.at_least(growth)
    choice.at_most(bounds.max_kv_bound(policy, pools))
    choice.at_least(bounds.pressure_bound(window, pools))
    return _in_blocks(window, pools, policy, choice, guards, growth)


def _factor(policy: PolicySpec, spending: Spending | None, approximate: bool) -> float:
    """g: smaller where a bad day can be mended; the larger one, whatever the policy says, where curves are rough."""
    if approximate:
        return bounds.CAUTION_FACTOR["High"]
    if spending is None or not spending.adaptable:
        return bounds.CAUTION_FACTOR[policy.caution]
    return bounds.WATCHED_FACTOR[policy.caution]


def _kept(candidate: int, before: Before | None) -> Bound | None:
    """What the former size says against a smaller one: nothing, once it has been too large by a tenth for W/6."""
    if before is None or candidate >= before.kv_bytes or not (before.candidates or before.same_policy):
        return None
    if not before.candidates:
        message = "nothing was evaluated during the last sixth of the window: what was recommended before stays"
        return Bound(name=bounds.HYSTERESIS, kv_bytes=before.kv_bytes, message=message)
    asked_lately = max((candidate, *before.candidates))
    smallest_step = before.kv_bytes * (1 - bounds.HYSTERESIS_SHARE)
    if asked_lately > smallest_step:
        return Bound(
            name=bounds.HYSTERESIS,
            kv_bytes=before.kv_bytes,
            message=(
                f"the last sixth of the window asked for up to {format_bytes(asked_lately)}, less than a tenth below "
                f"the {format_bytes(before.kv_bytes)} recommended before: that stays"
            ),
        )
    return Bound(
        name=bounds.HYSTERESIS, kv_bytes=asked_lately, message="the most that the last sixth of the window asked for"
    )


def _shortage(growth: Bound | None, kv_bytes: int) -> str:
    if growth is None or growth.kv_bytes <= kv_bytes:
        return ""
    return f"that is not enough, and it may get no more: {growth.message}"


def _whole_blocks(kv_bytes: int, pools: Pools) -> int:
    """Rounded up, as a pool is."""
    return -(-kv_bytes // pools.block_bytes) * pools.block_bytes


def _in_blocks(
    window: Window,
    pools: Pools,
    policy: PolicySpec,
    choice: _Choice,
    guards: tuple[Guard, ...],
    growth: Bound | None,
) -> Sizing:
    """Round up to whole blocks, never beyond what the device has room for."""
    choice.at_most(bounds.device_bound(pools))
    blocks = min(
        _whole_blocks(choice.kv_bytes, pools) // pools.block_bytes,
        max(bounds.device_bound(pools).kv_bytes // pools.block_bytes, 1),
    )
    kv_bytes = blocks * pools.block_bytes
    return Sizing(
        guards=guards,
        kv_bytes=kv_bytes,
        bound_by=choice.decided.name if choice.decided else "",
        message=choice.decided.message if choice.decided else "",
        conflict=bounds.max_kv_conflict(policy, pools),
        shortage=_shortage(growth, kv_bytes),
        bounds=tuple(choice.asked),
        predicted_hit_rate=window.curve().hit_rate(kv_bytes) if window.lookup_tokens else None,
    )
