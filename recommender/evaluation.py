"""From a workload's history and settings to its recommendation. Pure: the caller reads, writes and knows the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from recommender import bounds, conditions
from recommender.api.object_store import Raw
from recommender.api.objects import ObjectMeta, OwnerReference
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import (
    VERIFIED,
    Coverage,
    EstimatedPool,
    LossBudget,
    Measured,
    RecommendationSpec,
    RecommendationStatus,
    Resolved,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.workloads import recommendation_name
from recommender.bounds import Pools
from recommender.estimates import Estimate
from recommender.intervals import Series, interval_seconds
from recommender.loss_budgets import Period, Spending
from recommender.model_lengths import max_model_len_advice
from recommender.presence import pods_guard
from recommender.resolution import digest_of
from recommender.samples import KVCACHED, NO_KV_CACHE, EngineFacts
from recommender.sizing import Before, Guard, Sizing, size
from recommender.standings import Standing
from recommender.targets import gpu_totals, pools_of, savings_of, target_of
from recommender.verification import FORGOTTEN, Verification, tolerance, verify, worst
from recommender.windows import Window
from recommender.workload_states import WorkloadState

_UNKNOWN = Standing()

_NEVER_SIZED = (KVCACHED, NO_KV_CACHE)
"""What pods say of themselves that no size is for; those that sleep wake up to the one that they have."""


@dataclass(frozen=True)
class Assessment:
    """What the history says under a policy. `sizing` is None where no engine is known, or where no policy holds."""

    window: Window | None = None
    engines: tuple[EngineFacts, ...] = ()
    pools: Pools | None = None
    sizing: Sizing | None = None


@dataclass(frozen=True)
class Evaluation:
    """The recommendation as it should stand, and what it follows from."""

    recommendation: VLLMRecommendation
    assessment: Assessment
    standing: Standing | None = None
    """To be remembered for the fingerprint; None where nothing new is known."""


def evaluate(
    state: WorkloadState,
    series: Sequence[Series],
    candidates: tuple[int, ...],
    now: float,
    standing: Standing = _UNKNOWN,
) -> Evaluation:
    """`series` and `standing` are what the history holds of the state's fingerprint, `candidates` what sizing asked
    for under its policy during the last W/6; `now` in seconds since the epoch."""
    policy = state.policy.spec
    reporting = tuple(engine for report in state.current if report.reporting for engine in report.engines)
    stands = state.same_before.status if state.same_before else RecommendationStatus()
    known = _known(standing, state, stands)
    pods = pods_guard(state.current, series, now, policy.observation_window_seconds) if policy is not None else None
    found = assess(policy, series, reporting, stands, candidates, now, known, pods)
    sizing, pools, engines = found.sizing, found.pools, found.engines
    verification = _verification(state, series, sizing, now)
    degraded = conditions.degraded(state, verification, now)
    target = stands.target if policy is not None else None
    if sizing is not None and pools is not None:
        target = target_of(sizing, pools, engines, found.window.facts if found.window is not None else ())
    stands_aside = state.aside is not None and state.aside.aside in _NEVER_SIZED
    if degraded.status == "True" or stands_aside:
        target = None
    verdicts = (
        conditions.plugin_reporting(state),
        conditions.coverage_sufficient(sizing),
        conditions.recommended(state, sizing, target, degraded),
        conditions.applied(state, target),
        conditions.verified(verification),
        degraded,
        *conditions.autoscaler_conflicts(state),
    )
    automation, window = state.automation, found.window
    status = RecommendationStatus(
        fingerprint=state.fingerprint,
        replicas=len(state.reports),
        gpus=state.gpus,
        gpu_memory_total_bytes=gpu_totals(engines) if engines else stands.gpu_memory_total_bytes,
        automation=Resolved(value=str(automation.enabled).lower(), source=automation.enabled_source),
        policy=Resolved(value=automation.policy, source=automation.policy_source),
        measured=_measured(window, engines) if window is not None and engines else stands.measured,
        estimated=_estimated(state.estimate) if state.estimate is not None else None,
        # The own pool stands among the bounds: it must not be forgotten while nothing can be sized.
        bounds=list(sizing.bounds) if sizing else stands.bounds,
        target=target,
        savings=savings_of(target, pools) if target and pools else (stands.savings if target else None),
        coverage=_coverage(window) if window else None,
        loss_budget=_loss_budget(policy, sizing, stands),
        max_model_len_advice=(
            max_model_len_advice(window, pools, engines, sizing) if target and window and pools and sizing else None
        ),
        conditions=conditions.with_transitions(
            verdicts, state.previous.status.conditions if state.previous else (), now
        ),
    )
    return Evaluation(_object(state, status), found, _standing(known, state, pools, sizing, target))


def assess(
    policy: PolicySpec | None,
    series: Sequence[Series],
    reporting: tuple[EngineFacts, ...],
    stands: RecommendationStatus,
    candidates: tuple[int, ...],
    now: float,
    standing: Standing = _UNKNOWN,
    pods: Guard | None = None,
) -> Assessment:
    """Size by the window that ends at `now`. `reporting`: engines that run; `stands`: the status that stands, where it
    was made for the same fingerprint; `standing`: what is remembered of that fingerprint; `pods`: whether all of its
    pods are seen."""
    if policy is None:
        return Assessment(engines=reporting)
    window = Window.of(series, now, policy.observation_window_seconds)
    engines = reporting or _seen_last(window)
    if not engines:
        return Assessment(window)
    pools = pools_of(engines, max(standing.own_bytes, _own_pool(stands, window)))
    recommended = standing.recommended_bytes
    if stands.target is not None:
        recommended = stands.target.kv_blocks * pools.block_bytes
    # Where it is not known, as in a history that began anew, a size sinks slowly all the same.
    same_policy = standing.policy in (None, digest_of(policy))
    before = None if recommended is None else Before(recommended, candidates, same_policy)
    period = _period(stands.loss_budget)
    return Assessment(window, engines, pools, size(window, pools, policy, before, period, pods))


def _known(standing: Standing, state: WorkloadState, stands: RecommendationStatus) -> Standing:
    """What was recommended before counts where another fingerprint took the status; not where it was withdrawn."""
    if state.same_before is not None and stands.target is None:
        return replace(standing, recommended_bytes=None)
    return standing


def _standing(
    known: Standing, state: WorkloadState, pools: Pools | None, sizing: Sizing | None, target: Target | None
) -> Standing | None:
    if pools is None or sizing is None:
        return None
    return Standing(
        own_bytes=pools.own_bytes,
        recommended_bytes=target.kv_blocks * pools.block_bytes if target else None,
        policy=state.policy.digest if sizing.candidate_bytes is not None else known.policy,
    )


def _seen_last(window: Window) -> tuple[EngineFacts, ...]:
    """The engines of the newest interval, for a workload of which no pod reports now."""
    if window.last is None:
        return ()
    newest = window.last - 1.5 * interval_seconds(window.seconds)
    return tuple(one.facts for one in window.series if one.columns.ends.max() >= newest)


def _own_pool(stands: RecommendationStatus, window: Window) -> int:
    """The pool that the workload's own arguments make: the largest seen under its fingerprint, also long ago."""
    return max(
        window.largest_capacity_bytes, *(bound.kv_bytes for bound in stands.bounds if bound.name == bounds.POOL), 0
    )


def _verification(
    state: WorkloadState, series: Sequence[Series], sizing: Sizing | None, now: float
) -> Verification | None:
    policy = state.policy.spec
    if policy is None:
        return None
    loss = tolerance(sizing.knees if sizing else None, policy)
    found = [verify(report, series, policy, loss, now) for report in state.current if report.pod.applied]
    lately = [one for one in found if one.reason != FORGOTTEN]
    stood = state.same_before.condition(VERIFIED) if state.same_before else None
    if found and not lately and stood is not None and stood.status == "True":
        return Verification("True", stood.reason, stood.message)
    return worst(lately or found)


def _measured(window: Window, engines: Sequence[EngineFacts]) -> Measured:
    largest = max(engines, key=lambda engine: engine.capacity_bytes)
    ranks = [rank for engine in engines for rank in engine.ranks]
    hit_rate = window.hit_rate
    return Measured(
        vllm_version=largest.vllm_version,
        model=largest.model,
        weights_bytes=max(rank.weights_bytes for rank in ranks),
        overhead_bytes=max(rank.overhead_bytes for rank in ranks),
        kv_capacity_bytes=largest.capacity_bytes,
        kv_block_bytes=largest.block_bytes,
        kv_block_tokens=largest.block_tokens,
        kv_active_peak_bytes=round(max(window.active_peaks(), default=0)),
        kv_demand_peak_bytes=round(max(window.demand_peaks(), default=0)),
        kv_floor_bytes=max(engine.floor_bytes for engine in engines),
        allocated_bytes=max(rank.outside_pool_bytes + rank.capacity_bytes for rank in ranks),
        hit_rate=None if hit_rate is None else round(hit_rate, 6),
        requests=window.requests,
        lookup_tokens=window.lookup_tokens,
        preemptions=window.preemptions,
        admissions_blocked=window.admissions_blocked,
    )


def _period(stands: LossBudget | None) -> Period | None:
    if stands is None:
        return None
    return Period(
        start=stands.period_start.timestamp(),
        restart_tokens=stands.restarted_tokens,
        grown_bytes=stands.grown_kv_bytes or 0,
        grown_at=stands.grown_at.timestamp() if stands.grown_at else None,
    )


def _loss_budget(policy: PolicySpec | None, sizing: Sizing | None, stands: RecommendationStatus) -> LossBudget | None:
    if sizing is not None and sizing.spending is not None:
        return loss_budget_status(sizing.spending)
    return stands.loss_budget if policy is not None and policy.loss_budget is not None else None


def loss_budget_status(spending: Spending) -> LossBudget:
    """What is written of it, and remembered by it."""
    period = spending.period
    return LossBudget(
        period_start=datetime.fromtimestamp(period.start, UTC),
        budget_tokens=round(spending.budget_tokens),
        spent_tokens=round(spending.spent_tokens),
        projected_tokens=round(spending.projected_tokens),
        restart_tokens=round(spending.restart_tokens),
        restarted_tokens=round(period.restart_tokens),
        grown_kv_bytes=period.grown_bytes or None,
        grown_at=_moment(period.grown_at),
    )


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)


def _estimated(estimate: Estimate) -> EstimatedPool:
    return EstimatedPool(
        kv_pool_blocks=estimate.blocks,
        kv_block_tokens=estimate.block_tokens,
        kv_low_blocks=estimate.low_blocks,
        kv_high_blocks=estimate.high_blocks,
        confidence=round(estimate.confidence, 4),
        hit_rate=None if estimate.hit_rate is None else round(estimate.hit_rate, 6),
        preemptions=estimate.preemptions,
        samples=estimate.samples,
        since=datetime.fromtimestamp(int(estimate.since), UTC),
    )


def _coverage(window: Window) -> Coverage:
    return Coverage(
        window_seconds=window.seconds,
        covered_seconds=round(window.covered_seconds, 3),
        percent=round(window.coverage_percent, 2),
        samples=window.samples,
        first_sample=_moment(window.first),
        last_sample=_moment(window.last),
    )


def _object(state: WorkloadState, status: RecommendationStatus) -> VLLMRecommendation:
    workload = state.key.workload
    reference = TargetRef(group=workload.group, kind=workload.kind, name=workload.name, container=state.key.container)
    if state.previous is not None:
        return state.previous.model_copy(update={"status": status})
    return VLLMRecommendation(
        metadata=ObjectMeta(
            name=recommendation_name(workload, state.key.container),
            namespace=state.key.namespace,
            owner_references=_owners(state.owner),
        ),
        kind="VLLMRecommendation",
        spec=RecommendationSpec(target_ref=reference),
        status=status,
    )


def _owners(owner: Raw | None) -> list[OwnerReference] | None:
    """The workload's object, so that the recommendation goes with it; a bare pod's goes on to its successor."""
    if owner is None or owner.get("kind") == "Pod" or not owner["metadata"].get("uid"):
        return None
    metadata = owner["metadata"]
    return [
        OwnerReference(api_version=owner["apiVersion"], kind=owner["kind"], name=metadata["name"], uid=metadata["uid"])
    ]
