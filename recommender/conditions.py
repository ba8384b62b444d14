"""The conditions of a recommendation: each with a reason for programs and a sentence for people. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from recommender import bounds
from recommender.api.objects import Condition
from recommender.api.recommendations import (
    APPLIED,
    AUTOSCALER_CONFLICT,
    COVERAGE_SUFFICIENT,
    DEGRADED,
    PLUGIN_REPORTING,
    RECOMMENDED,
    VERIFIED,
    Target,
    VLLMRecommendation,
)
from recommender.api.units import format_bytes
from recommender.sizing import COVERAGE, LOOKUPS, PODS, REQUESTS, Guard, Sizing
from recommender.targets import why_no_target
from recommender.verification import Verification
from recommender.windows import ROLLING_PARTS
from recommender.workload_states import PodReport, WorkloadState
from vllm_plugin.names import OVERRIDE_RAISED, OVERRIDE_REFUSED, PREFIX

_GUARD_REASONS = {
    PODS: "PodsWithoutData",
    COVERAGE: "CoverageBelowPolicy",
    REQUESTS: "TooFewRequests",
    LOOKUPS: "PoolNotLookedThrough",
}

ESTIMATED = "EstimatedFromVLLM"
"""The reason where nothing but vLLM's own metrics is known."""
CONTRADICTORY = "Contradictory"
"""The reason of a policy whose settings do not go together; it is followed as far as it can be."""
PARTLY_FOLLOWED = "PartlyFollowed"
"""The reason of a policy with settings that are not built yet."""
SHORT = "ShortOfKVCache"
"""The reason where pods need more than the policy or the GPU lets them have."""
BY_POOL_USAGE = "ScaledByPoolUsage"
"""The reason where an autoscaler goes by the usage of the pool, which rises when that is made smaller."""
BY_GPU_MEMORY = "ScaledByGPUMemory"
"""The reason where one goes by GPU memory, of which less is in use then."""
BY_BOTH = "ScaledByPoolUsageAndGPUMemory"
"""The reason where they go by both."""
PLUGIN_MISSING = "PluginMissing"
"""The reason where the pods have no plugin, and not even vLLM's own metrics are known."""


@dataclass(frozen=True)
class Verdict:
    """A condition before its time of transition is known."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str


def plugin_reporting(state: WorkloadState) -> Verdict:
    """Do the workload's pods say anything, and can it be believed?"""
    pods = state.reports
    if not pods:
        return Verdict(PLUGIN_REPORTING, "False", "NoPods", "no pod with the plugin")
    reporting = sum(report.reporting for report in pods)
    first_fault = next(
        (f"pod {report.pod.name}: {report.fault}" for report in pods if report.pod.address and report.fault), None
    )
    missing = next((f"pod {one.pod.name}: {one.pod.missing.message}" for one in pods if one.pod.missing), None)
    message = "; ".join(text for text in (f"{reporting} of {len(pods)} pods report", first_fault, missing) if text)
    if reporting:
        return Verdict(PLUGIN_REPORTING, "True", "Reporting", message)
    if state.aside is not None and state.aside.aside is not None:
        return Verdict(PLUGIN_REPORTING, "True", state.aside.aside, message)
    if state.estimate is not None:
        return Verdict(PLUGIN_REPORTING, "False", ESTIMATED, f"{message}; {state.estimate.message}")
    reason = "ScrapeFailed" if first_fault else PLUGIN_MISSING if missing else "PodsNotRunning"
    return Verdict(PLUGIN_REPORTING, "False", reason, message)


def coverage_sufficient(sizing: Sizing | None) -> Verdict:
    """Is there enough data to make a pool smaller?"""
    if sizing is None:
        return Verdict(COVERAGE_SUFFICIENT, "False", "NoData", "nothing was observed under these arguments yet")
    missing = next((guard for guard in sizing.guards if not guard.passed), None)
    if missing is not None:
        return Verdict(COVERAGE_SUFFICIENT, "False", _GUARD_REASONS[missing.name], missing.message)
    said = (guard.message for guard in sizing.guards if guard.name in (COVERAGE, PODS))
    return Verdict(COVERAGE_SUFFICIENT, "True", "Sufficient", "; ".join(said))


def pods_guard_of(recommendation: VLLMRecommendation) -> Guard | None:
    """The guard that asks for data of all pods, where it held back this recommendation: afterwards nobody knows which
    pods ran then. None where it did not."""
    said = recommendation.condition(COVERAGE_SUFFICIENT)
    if said is None or said.reason != _GUARD_REASONS[PODS]:
        return None
    return Guard(PODS, False, said.message)


def recommended(state: WorkloadState, sizing: Sizing | None, target: Target | None, degraded: Verdict) -> Verdict:
    """Is there a size for the next pod, and what decided it?"""
    policy = state.policy
    if policy.spec is None:
        reason = "PolicyNotFound" if policy.missing else "PolicyInvalid"
        return Verdict(RECOMMENDED, "False", reason, policy.fault or "")
    if degraded.status == "True":
        return Verdict(RECOMMENDED, "False", "Withdrawn", degraded.message)
    fault = (
        f". The policy is invalid as it stands, its last valid version goes on: {policy.fault}" if policy.fault else ""
    )
    aside = state.aside
    if target is None and aside is not None and aside.aside is not None:
        return Verdict(RECOMMENDED, "False", aside.aside, f"{aside.fault}{fault}")
    if target is None and sizing is None and state.estimate is not None:
        return Verdict(RECOMMENDED, "False", ESTIMATED, state.estimate.message + fault)
    if target is None and sizing is not None and sizing.kv_bytes is not None:
        return Verdict(RECOMMENDED, "False", "SmallestCardTooSmall", why_no_target(sizing) + fault)
    if target is None:
        message = sizing.message if sizing else "nothing was observed under these arguments yet"
        return Verdict(RECOMMENDED, "False", "InsufficientData", message + fault)
    message = f"{format_bytes(target.kv_bytes)} of KV cache"
    if sizing is not None and sizing.message:
        message += f": {sizing.message}"
    if sizing is not None:
        message += "".join(f"; {text}" for text in (sizing.conflict, sizing.shortage) if text and text not in message)
    if fault:
        return Verdict(RECOMMENDED, "True", "LastValidPolicy", message + fault)
    if sizing is not None and sizing.conflict and target.bound_by == bounds.FLOOR:
        return Verdict(RECOMMENDED, "True", "MaxKVBelowFloor", message)
    if sizing is not None and sizing.shortage:
        return Verdict(RECOMMENDED, "True", SHORT, message)
    return Verdict(RECOMMENDED, "True", target.bound_by[0].upper() + target.bound_by[1:], message)


def applied(state: WorkloadState, target: Target | None) -> Verdict:
    """Do the running pods have the pool that is recommended?"""
    if target is None:
        return Verdict(APPLIED, "False", "NothingRecommended", "there is nothing to apply")
    pods = [report for report in state.current if report.reporting]
    if not pods:
        return Verdict(APPLIED, "Unknown", "NoPodReports", "no pod reports what it runs with")
    blocks = [max(engine.blocks for engine in report.engines) for report in pods]
    exact = sum(count == target.kv_blocks for count in blocks)
    close = sum(
        report.pod.applied and abs(count - target.kv_blocks) <= bounds.HYSTERESIS_SHARE * target.kv_blocks
        for report, count in zip(pods, blocks, strict=True)
    )
    message = f"{exact} of {len(pods)} pods run with the recommended {target.kv_blocks} blocks"
    if exact == len(pods):
        return Verdict(APPLIED, "True", "PoolAsRecommended", message)
    refused = next((one.pod.name for one in pods if _override(one) == OVERRIDE_REFUSED), None)
    raised = [report for report in pods if _override(report) == OVERRIDE_RAISED]
    others = sorted({count for count in blocks if count != target.kv_blocks})
    message += f", others with {', '.join(str(count) for count in others)}"
    if refused is not None:
        message += f"; in pod {refused} the plugin could not set it: its log says why"
        return Verdict(APPLIED, "False", "OverrideRefused", message)
    if raised and exact + len(raised) >= len(pods):
        message += f"; vLLM refused to start pod {raised[0].pod.name} with less, and the plugin raised it to the least"
        return Verdict(APPLIED, "True", "RaisedToStart", message)
    if all(
        report.pod.applied or count == target.kv_blocks for report, count in zip(pods, blocks, strict=True)
    ) and close + exact >= len(pods):
        return Verdict(
            APPLIED, "True", "EarlierRecommendation", message + ", which an earlier recommendation gave them"
        )
    if state.previous is not None and state.previous.spec.paused:
        return Verdict(APPLIED, "False", "Paused", message + "; spec.paused is true: pods start as they are written")
    if not state.automation.enabled:
        return Verdict(APPLIED, "False", "AutomationOff", message + "; automation is off for this workload")
    if state.automation.dry_run or (state.policy.spec is not None and state.policy.spec.mode == "DryRun"):
        return Verdict(APPLIED, "False", "DryRun", message + "; arguments stay as they are in dry-run mode")
    return Verdict(APPLIED, "False", "AwaitingNewPods", message + "; the next pods start with it")


def _override(report: PodReport) -> str:
    return next((engine.override for engine in report.engines if engine.override), "")


def verified(verification: Verification | None) -> Verdict:
    """Do the pods that started with a recommendation do as promised?"""
    if verification is None:
        return Verdict(VERIFIED, "Unknown", "NotApplied", "no pod was started with a recommendation yet")
    return Verdict(VERIFIED, verification.status, verification.reason, verification.message)


def degraded(state: WorkloadState, verification: Verification | None, now: float) -> Verdict:
    """Is the recommendation withdrawn? For at least W/6 after a pod did not do as promised; without a policy, which
    says how long W is, until there is one."""
    if verification is not None and verification.status == "False":
        return Verdict(DEGRADED, "True", verification.reason, verification.message)
    stands = state.same_before.condition(DEGRADED) if state.same_before else None
    window = state.policy.spec.observation_window_seconds if state.policy.spec else math.inf
    if (
        stands is not None
        and stands.status == "True"
        # A clock that was ahead then must not keep it so for as long.
        and abs(now - stands.last_transition_time.timestamp()) < window / ROLLING_PARTS
    ):
        return Verdict(DEGRADED, "True", stands.reason, stands.message)
    return Verdict(DEGRADED, "False", "NoFailure", "no pod failed with a recommendation")


def autoscaler_conflicts(state: WorkloadState) -> tuple[Verdict, ...]:
    """Does an autoscaler go by what a smaller pool raises or lowers? No verdict where none does."""
    found = state.autoscaler_conflicts
    if not found:
        return ()
    by_usage = ", ".join(f"{one.kind} {one.name} by {one.pool_usage}" for one in found if one.pool_usage)
    by_memory = ", ".join(f"{one.kind} {one.name} by {one.gpu_memory}" for one in found if one.gpu_memory)
    said = []
    if by_usage:
        said.append(
            f"scaled by its use of a KV cache whose size changes here: {by_usage}. A smaller KV cache raises that, and "
            "the number of pods with it"
        )
    if by_memory:
        said.append(
            f"scaled by GPU memory, which vLLM claims at its start whatever the load: {by_memory}. A smaller KV cache "
            "lowers what is in use, and the number of pods with it"
        )
    said.append(f"{PREFIX}workload_kv_demand_ratio keeps its meaning")
    reason = BY_BOTH if by_usage and by_memory else BY_POOL_USAGE if by_usage else BY_GPU_MEMORY
    return (Verdict(AUTOSCALER_CONFLICT, "True", reason, "; ".join(said)),)


def with_transitions(verdicts: Sequence[Verdict], before: Sequence[Condition], now: float) -> list[Condition]:
    """Conditions with the time at which each took its present status."""
    stood = {condition.type: condition for condition in before}
    at = datetime.fromtimestamp(int(now), UTC)
    conditions = []
    for verdict in verdicts:
        former = stood.get(verdict.type)
        since = former.last_transition_time if former is not None and former.status == verdict.status else at
        conditions.append(
            Condition(
                type=verdict.type,
                status=verdict.status,
                reason=verdict.reason,
                message=verdict.message,
                last_transition_time=since,
            )
        )
    return conditions
