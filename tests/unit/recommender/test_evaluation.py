"""Recommendation objects: targets, conditions, what stays and what goes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from evaluated import (
    FINGERPRINT,
    HOUR,
    NOW,
    OBSERVED,
    ON,
    OWN,
    W,
    after_restart,
    applied_engine,
    pod,
    recommend,
    shown,
    state,
    target_of,
    traffic,
)
from synthetic import BLOCK_BYTES, KEY, GiB, facts, series

from recommender.api.automation import Automation
from recommender.api.launches import Launch
from recommender.api.policies import PolicySpec
from recommender.api.recommendations import (
    APPLIED,
    COVERAGE_SUFFICIENT,
    DEGRADED,
    PLUGIN_REPORTING,
    RECOMMENDED,
    VERIFIED,
    VLLMRecommendation,
)
from recommender.evaluating import _inputs
from recommender.evaluation import evaluate
from recommender.intervals import Series
from recommender.resolution import ResolvedPolicy
from recommender.standings import Standing
from recommender.targets import utilization_of
from recommender.workload_states import PodReport, WorkloadState

# --- The object ---------------------------------------------------------------------------------------------------


def test_a_first_recommendation() -> None:
    found = recommend(state())
    target, status = target_of(found), found.status
    assert found.metadata.name.startswith("deployment-llama-vllm-")
    assert found.metadata.owner_references is not None
    assert found.metadata.owner_references[0].uid == "d-1"
    assert status.fingerprint == FINGERPRINT
    assert target.kv_bytes == target.kv_blocks * BLOCK_BYTES
    # Exact, whatever the overhead is: allocated − capacity + C.
    assert target.allocation_bytes == 18 * GiB + target.kv_bytes
    assert float(target.gpu_memory_utilization) >= target.allocation_bytes / (80 * GiB)
    assert float(target.gpu_memory_utilization) < target.allocation_bytes / (80 * GiB) + 1e-4
    assert target.flags == [
        f"--gpu-memory-utilization={target.gpu_memory_utilization}",
        f"--kv-cache-memory-bytes={target.kv_bytes}",
    ]
    assert status.savings is not None
    assert status.savings.bytes == 4096 * BLOCK_BYTES - target.kv_bytes
    assert status.measured is not None
    assert status.measured.hit_rate == pytest.approx(0.75, abs=0.03)
    assert target.predicted_hit_rate == pytest.approx(status.measured.hit_rate, abs=0.011)
    assert status.automation is not None
    assert (status.automation.value, status.automation.source) == ("true", "AutomatedNamespace")
    assert {bound.name for bound in status.bounds} >= {"hitRate", "demand", "floor", "pool", "device"}
    assert shown(found, PLUGIN_REPORTING) == ("True", "Reporting")
    assert shown(found, COVERAGE_SUFFICIENT) == ("True", "Sufficient")
    assert shown(found, RECOMMENDED) == ("True", "HitRate")
    assert shown(found, APPLIED) == ("False", "AwaitingNewPods")
    assert shown(found, VERIFIED) == ("Unknown", "NotApplied")
    assert shown(found, DEGRADED) == ("False", "NoFailure")


def test_pods_and_their_gpus_are_counted() -> None:
    """Those that say nothing, too, and the GPUs of an engine's ranks wherever these run."""
    assert (recommend(state()).status.replicas, recommend(state()).status.gpus) == (1, 1)
    whole = replace(pod("llama-1"), launch=Launch(gpus=4))
    ranks = tuple(replace(OWN.ranks[0], rank=str(rank)) for rank in range(8))
    over_two_nodes = PodReport(replace(whole, name="llama-2"), (replace(OWN, ranks=ranks),))
    found = recommend(state(PodReport(pod(), fault="silent"), PodReport(whole), over_two_nodes))
    assert (found.status.replicas, found.status.gpus) == (3, 1 + 4 + 8)
    none = WorkloadState(KEY, (), ON, state().policy, found, None)
    assert (recommend(none).status.replicas, recommend(none).status.gpus) == (0, 0)


@pytest.mark.parametrize(
    ("allocation", "total", "expected"),
    [
        (50, 100, "0.4900"),
        (5_000_000, 10_000_000, "0.5000"),
        (5_000_100, 10_000_000, "0.5001"),
        (5_000_001, 10_000_000, "0.5000"),
        (5_000_002, 10_000_000, "0.5001"),
        (10_000_000, 10_000_000, "1.0000"),
        (20_000_000, 10_000_000, "1.0000"),
        (1, 10_000_000, "0.0001"),
    ],
)
def test_utilization_is_rounded_up_at_the_fourth_decimal(allocation: int, total: int, expected: str) -> None:
    assert utilization_of(allocation, total) == expected


@pytest.mark.parametrize(
    ("version", "flags"),
    [("0.32.0", 2), ("0.10.2", 2), ("0.10.1.1", 1), ("0.8.5", 1), ("", 1), ("0.11.0rc1", 2), ("unknown", 1)],
)
def test_the_flag_for_bytes_only_where_vllm_knows_it(version: str, flags: int) -> None:
    """An unknown option ends vLLM."""
    engine = facts(vllm_version=version)
    found = recommend(state(PodReport(pod(), (engine,))))
    assert len(target_of(found).flags) == flags


def test_where_a_user_set_the_bytes_the_claim_says_nothing() -> None:
    """vLLM then ignores utilization: weights, overhead and pool as measured."""
    rank = replace(OWN.ranks[0], allocated_bytes=1 * GiB)
    found = recommend(state(PodReport(pod(), (replace(OWN, ranks=(rank,)),))))
    assert target_of(found).allocation_bytes == 18 * GiB + target_of(found).kv_bytes


def test_what_vllm_takes_off_the_bytes_it_is_told_comes_on_top() -> None:
    """It decodes pictures with it: the pool is to have the blocks all the same, and utilization covers it already."""
    plain = target_of(recommend(state()))
    engine = replace(OWN, ranks=(replace(OWN.ranks[0], reserved_bytes=1 * GiB),))
    target = target_of(recommend(state(PodReport(pod(), (engine,)))))
    assert (target.kv_blocks, target.kv_bytes) == (plain.kv_blocks, plain.kv_bytes + 1 * GiB)
    assert f"--kv-cache-memory-bytes={plain.kv_bytes + GiB}" in target.flags
    assert target.gpu_memory_utilization == plain.gpu_memory_utilization


def test_ranks_of_different_size_are_served_by_one_flag() -> None:
    first = OWN.ranks[0]
    second = replace(first, rank="1", block_bytes=first.block_bytes + 4096, total_bytes=48 * GiB)
    found = recommend(state(PodReport(pod(), (replace(OWN, ranks=(first, second)),))))
    target = target_of(found)
    assert target.kv_bytes == target.kv_blocks * (first.block_bytes + 4096)
    assert found.status.gpu_memory_total_bytes is not None
    assert (found.status.gpu_memory_total_bytes.min, found.status.gpu_memory_total_bytes.max) == (48 * GiB, 80 * GiB)
    assert float(target.gpu_memory_utilization) > target.allocation_bytes / (80 * GiB)


def test_a_size_that_one_of_the_cards_has_no_room_for_is_none() -> None:
    """Nobody knows on which GPU the next pod starts; with their own arguments all of them do."""

    def beside(total_bytes: int, blocks: int, runs: bool = True) -> VLLMRecommendation:
        other = facts(blocks=blocks, total_bytes=total_bytes)
        reports = (PodReport(pod(), (OWN,)), PodReport(pod("llama-1"), (other,)))
        of = state(*reports[: 1 + runs])
        return recommend(of, (*OBSERVED, series(traffic(), W, NOW, engine=other, pod="llama-1")))

    for runs in (True, False):
        found = beside(20 * GiB, 600, runs)
        assert found.status.target is None
        assert shown(found, RECOMMENDED) == ("False", "SmallestCardTooSmall")
        assert target_of(beside(24 * GiB, 2000, runs)).kv_blocks > 1000


# --- Stability ----------------------------------------------------------------------------------------------------


def test_nothing_changes_once_the_pods_run_with_it() -> None:
    first = recommend(state())
    later, observed = after_restart(first)
    second = recommend(later, observed, (target_of(first).kv_bytes,))
    assert target_of(second).kv_blocks == target_of(first).kv_blocks
    assert second.status.savings == first.status.savings
    assert shown(second, APPLIED) == ("True", "PoolAsRecommended")
    assert shown(second, VERIFIED) == ("True", "AsPredicted")


def test_the_own_pool_is_remembered_when_the_window_has_forgotten_it() -> None:
    """No ratchet: five windows later the loss is still measured against the 4,096 blocks of the own arguments."""
    found = recommend(state())
    expected = target_of(found).kv_blocks
    for _ in range(5):
        small = facts(blocks=target_of(found).kv_blocks)
        reports = (PodReport(pod("llama-1", applied=True), (small,)),)
        observed = (series(traffic(), W, NOW, engine=small, pod="llama-1"),)
        asked = (target_of(found).kv_bytes // 2,)
        found = recommend(state(*reports, previous=found), observed, asked)
        assert target_of(found).kv_blocks == pytest.approx(expected, rel=0.01)
    assert found.status.savings is not None
    assert found.status.savings.bytes == (4096 - target_of(found).kv_blocks) * BLOCK_BYTES


def test_pods_of_an_earlier_recommendation_count_as_applied() -> None:
    first = recommend(state())
    later, observed = after_restart(first)
    near = facts(blocks=round(target_of(first).kv_blocks * 0.95))
    reports = (PodReport(pod("llama-1", applied=True, age=W / 2), (near,)),)
    second = recommend(replace(later, reports=reports), observed, (target_of(first).kv_bytes,))
    assert shown(second, APPLIED) == ("True", "EarlierRecommendation")


def test_without_pods_the_recommendation_waits() -> None:
    """Scaled to nothing for days: no data, and the size stays."""
    first = recommend(state())
    empty = WorkloadState(KEY, (), ON, ResolvedPolicy("default", PolicySpec()), first, None)
    for observed in (OBSERVED, ()):
        second = recommend(empty, observed, now=NOW + 10 * W)
        assert target_of(second).kv_bytes == target_of(first).kv_bytes
        assert shown(second, PLUGIN_REPORTING) == ("False", "NoPods")
        assert shown(second, COVERAGE_SUFFICIENT)[0] == "False"
        assert shown(second, RECOMMENDED)[0] == "True"
        assert shown(second, APPLIED) == ("Unknown", "NoPodReports")


def test_another_fingerprint_begins_anew() -> None:
    first = recommend(state())
    other = PodReport(pod("llama-2", fingerprint="0" * 16, age=60), (OWN,))
    second = recommend(state(PodReport(pod(), (OWN,)), other, previous=first), ())
    assert second.status.fingerprint == "0" * 16
    assert second.status.target is None
    assert shown(second, RECOMMENDED) == ("False", "InsufficientData")


def test_conditions_keep_the_time_of_their_last_change() -> None:
    first = recommend(state())
    second = recommend(state(previous=first), now=NOW + HOUR)
    for one, other in zip(first.status.conditions, second.status.conditions, strict=True):
        assert (one.type, one.last_transition_time) == (other.type, other.last_transition_time)


def test_the_same_again_is_the_same_object() -> None:
    first = recommend(state())
    assert recommend(state(previous=first), candidates=(target_of(first).kv_bytes,)).to_json() == first.to_json()


# --- Conditions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        ((series(traffic(40), W, NOW),), "CoverageBelowPolicy"),
        ((series(traffic(), W, NOW, requests=1),), "TooFewRequests"),
        ((series(traffic(lookups=10), W, NOW),), "PoolNotLookedThrough"),
    ],
)
def test_too_little_data(observed: tuple[Series, ...], reason: str) -> None:
    found = recommend(state(), observed)
    assert found.status.target is None
    assert shown(found, COVERAGE_SUFFICIENT) == ("False", reason)
    assert shown(found, RECOMMENDED) == ("False", "InsufficientData")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (ResolvedPolicy("gone", None, "there is no VLLMPolicy gone", True), ("False", "PolicyNotFound")),
        (ResolvedPolicy("odd", None, "VLLMPolicy odd: spec.percentile: nonsense"), ("False", "PolicyInvalid")),
        (ResolvedPolicy("odd", PolicySpec(), "VLLMPolicy odd: nonsense"), ("True", "LastValidPolicy")),
    ],
)
def test_policies_that_do_not_hold(policy: ResolvedPolicy, expected: tuple[str, str]) -> None:
    found = recommend(state(policy=policy))
    assert shown(found, RECOMMENDED) == expected
    assert (found.status.target is not None) == (expected[0] == "True")
    condition = found.condition(RECOMMENDED)
    assert condition is not None
    assert policy.fault is not None
    assert policy.fault in condition.message


def test_a_missing_policy_does_not_forget_the_own_pool() -> None:
    first = recommend(state())
    without = recommend(state(previous=first, policy=ResolvedPolicy("gone", None, "gone", True)))
    assert [bound for bound in without.status.bounds if bound.name == "pool"]


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        ([PodReport(pod(), fault="page is nonsense")], ("False", "ScrapeFailed")),
        ([PodReport(replace(pod(), address=None), fault="does not run")], ("False", "PodsNotRunning")),
        ([PodReport(pod("a"), (OWN,)), PodReport(pod("b"), fault="page is nonsense")], ("True", "Reporting")),
    ],
)
def test_who_reports(reports: list[PodReport], expected: tuple[str, str]) -> None:
    found = recommend(state(*reports))
    assert shown(found, PLUGIN_REPORTING) == expected
    condition = found.condition(PLUGIN_REPORTING)
    assert condition is not None
    if any(report.fault == "page is nonsense" for report in reports):
        assert "page is nonsense" in condition.message


@pytest.mark.parametrize(
    ("automation", "spec", "reason"),
    [
        (replace(ON, enabled=False), {}, "AutomationOff"),
        (replace(ON, dry_run=True), {}, "DryRun"),
        (ON, {"mode": "DryRun"}, "DryRun"),
    ],
)
def test_why_nothing_is_applied(automation: Automation, spec: dict[str, Any], reason: str) -> None:
    assert shown(recommend(state(automation=automation, **spec)), APPLIED) == ("False", reason)


def test_a_pause_is_why_nothing_is_applied() -> None:
    first = recommend(state())
    paused = first.model_copy(update={"spec": first.spec.model_copy(update={"paused": True})})
    assert shown(recommend(state(previous=paused)), APPLIED) == ("False", "Paused")
    # And at once, not when the interval is over.
    assert _inputs(state(previous=paused)) != _inputs(state(previous=first))


@pytest.mark.parametrize("lookups", [60, 45])
def test_a_max_kv_below_the_floor_is_said(lookups: int) -> None:
    small_reuse = recommend(
        state(maxKV="1Mi"), (series(traffic(lookups=lookups, deepest=40), W, NOW, demand_blocks=5),)
    )
    for found in (recommend(state(maxKV="1Mi")), small_reuse):
        assert shown(found, RECOMMENDED) == ("True", "MaxKVBelowFloor")
        condition = found.condition(RECOMMENDED)
        assert condition is not None
        assert "maxKV is 1Mi" in condition.message
        assert "the floor wins" in condition.message
        assert target_of(found).bound_by == "floor"


def test_what_a_fingerprint_had_is_known_again_after_another_came_and_went() -> None:
    """A canary that is undone: the same own pool, and the size recommended before holds back a slightly smaller one."""
    first = recommend(state())
    small = applied_engine(first)
    run = PodReport(pod("llama-0", applied=True, age=5 * W), (small,))
    observed = (series(traffic(), W, NOW, engine=small),)
    canary = PodReport(pod("canary", age=60, fingerprint="e" * 16, ready=False), fault="the pod does not run yet")
    between = recommend(state(run, canary, previous=first), ())
    assert between.status.fingerprint == "e" * 16
    digest = ResolvedPolicy("default", PolicySpec()).digest
    held = round(target_of(first).kv_blocks * 1.05) * BLOCK_BYTES
    known = Standing(own_bytes=4096 * BLOCK_BYTES, recommended_bytes=held, policy=digest)
    found = evaluate(state(run, previous=between), observed, (target_of(first).kv_bytes,), NOW, known)
    status = found.recommendation.status
    assert [bound.kv_bytes for bound in status.bounds if bound.name == "pool"] == [4096 * BLOCK_BYTES]
    assert status.target is not None
    assert (status.target.kv_bytes, status.target.bound_by) == (held, "hysteresis")
    assert found.standing == replace(known, recommended_bytes=held)


# --- What became of the sizes that the plugin was to set ------------------------------------------------------------


def test_a_pod_that_was_raised_to_what_vllm_starts_with_is_said_to_be() -> None:
    first = recommend(state())
    larger = replace(facts(blocks=target_of(first).kv_blocks + 700), override="raised")
    reports = (PodReport(pod("llama-1", applied=True), (larger,)),)
    found = recommend(state(*reports, previous=first), candidates=(target_of(first).kv_bytes,))
    assert shown(found, APPLIED) == ("True", "RaisedToStart")


def test_a_pod_whose_plugin_could_set_nothing_is_named() -> None:
    first = recommend(state())
    reports = (PodReport(pod("llama-1", applied=True), (replace(OWN, override="refused"),)),)
    found = recommend(state(*reports, previous=first), candidates=(target_of(first).kv_bytes,))
    assert shown(found, APPLIED) == ("False", "OverrideRefused")
    condition = found.condition(APPLIED)
    assert condition is not None
    assert "llama-1" in condition.message
