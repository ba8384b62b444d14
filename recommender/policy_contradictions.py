"""Settings that the schema allows and that do not go together: what wins, or what never happens. Pure.

Such a policy is followed all the same, as far as it can be.
"""

from __future__ import annotations

from collections.abc import Callable

from recommender.api.policies import PolicySpec, Verify
from recommender.api.units import format_duration, parse_duration
from recommender.intervals import INTERVALS_PER_WINDOW

_SHORTEST_INTERVAL_SECONDS = 1.0
"""Two scrapes: there is no shorter time between them than half a second."""
_SHORTEST_START_SECONDS = 60.0
"""No vLLM loads a model, compiles it and answers in less."""
_FINEST_POINTS = 0.1
"""The measured curve is exact to so many points of hit rate."""
_CAUTIOUS_PERCENTILE = 99


def contradictions(spec: PolicySpec) -> tuple[str, ...]:
    """A sentence for each, by the fields' names."""
    return tuple(sentence for rule in _RULES if (sentence := rule(spec)))


def _window(spec: PolicySpec) -> str:
    shortest = INTERVALS_PER_WINDOW * _SHORTEST_INTERVAL_SECONDS
    if spec.observation_window_seconds >= shortest:
        return ""
    return (
        f"observationWindow {spec.observation_window}: its intervals, a {INTERVALS_PER_WINDOW}th of it each, are too "
        f"short to be scraped twice and have gaps; {format_duration(shortest)} is the least that has none"
    )


def _coverage(spec: PolicySpec) -> str:
    if spec.window_coverage < 100:
        return ""
    return (
        "windowCoverage 100: one missed scrape, or a pod's restart, and for a whole observationWindow nothing becomes "
        "smaller"
    )


def _percentile(spec: PolicySpec) -> str:
    if spec.caution != "High" or spec.percentile >= _CAUTIOUS_PERCENTILE:
        return ""
    return f"caution High widens a size from which percentile {spec.percentile} has left the busiest hours out"


def _points(spec: PolicySpec) -> str:
    loss = spec.hit_rate_loss
    if loss.points >= 100 and loss.miss_ratio_percent >= 100:
        return "hitRateLoss allows to lose every hit: sizes follow from demand alone"
    if loss.points < _FINEST_POINTS:
        return f"hitRateLoss.points {loss.points:g} is finer than what is measured, {_FINEST_POINTS:g} points"
    return ""


def _least_and_most(spec: PolicySpec) -> str:
    if spec.min_kv_bytes is None or spec.max_kv_bytes is None or spec.min_kv_bytes <= spec.max_kv_bytes:
        return ""
    return f"minKV {spec.min_kv} is larger than maxKV {spec.max_kv}: maxKV wins"


def _loss_budget(spec: PolicySpec) -> str:
    if spec.loss_budget is None or spec.loss_budget <= 1:
        return ""
    return f"lossBudget {spec.loss_budget:g} lets a day lose more than hitRateLoss allows: 1 is all of it"


def _replacing(spec: PolicySpec) -> str:
    if spec.strategy != "Ongoing":
        return ""
    if spec.mode == "DryRun":
        return "strategy Ongoing replaces no pod in mode DryRun"
    if spec.restart.max_per_day == 0:
        return "strategy Ongoing replaces no pod with restart.maxPerDay 0"
    if spec.restart.gap_percent >= 100:
        return "strategy Ongoing makes no pod smaller with restart.gapPercent 100: none is that far from its size"
    return ""


def _time_zone(spec: PolicySpec) -> str:
    if spec.restart.time_zone is None or spec.restart.window is not None:
        return ""
    return f"restart.timeZone {spec.restart.time_zone} is that of no restart.window"


def _settling(spec: PolicySpec) -> str:
    # The default is for windows of hours, and does not have to be looked after where somebody takes a shorter one. API
    # servers write it into every policy.
    asked = spec.verify.settle != Verify().settle
    if not asked or parse_duration(spec.verify.settle) <= spec.observation_window_seconds:
        return ""
    return (
        f"verify.settle {spec.verify.settle} is longer than observationWindow {spec.observation_window}: "
        "of what a pod did while it settled, only so much is known"
    )


def _starting(spec: PolicySpec) -> str:
    if parse_duration(spec.verify.ready_timeout) >= _SHORTEST_START_SECONDS:
        return ""
    return (
        f"verify.readyTimeout {spec.verify.ready_timeout} is shorter than vLLM takes to start: "
        "every size is withdrawn after its first pod"
    )


_RULES: tuple[Callable[[PolicySpec], str], ...] = (
    _window,
    _coverage,
    _percentile,
    _points,
    _least_and_most,
    _loss_budget,
    _replacing,
    _time_zone,
    _settling,
    _starting,
)
