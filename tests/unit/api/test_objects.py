"""Objects of the API group: what is accepted, what is refused in which words, what is written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from recommender.api.objects import Condition, InvalidObjectError, ObjectMeta
from recommender.api.policies import ClusterAutomation, VLLMPolicy
from recommender.api.recommendations import (
    Bound,
    Coverage,
    Measured,
    RecommendationSpec,
    RecommendationStatus,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import API_VERSION


def policy(**spec: Any) -> VLLMPolicy:
    return VLLMPolicy.from_json(
        {"apiVersion": API_VERSION, "kind": "VLLMPolicy", "metadata": {"name": "p"}, "spec": spec}
    )


def test_defaults() -> None:
    spec = policy().spec
    assert spec.observation_window_seconds == 48 * 3600
    assert (spec.window_coverage, spec.percentile, spec.strategy) == (50, 99, "OnCreate")
    assert (spec.hit_rate_loss.points, spec.hit_rate_loss.miss_ratio_percent) == (1, 5)
    assert (spec.min_kv_bytes, spec.max_kv_bytes, spec.min_requests) == (None, None, 1000)


def test_names_on_the_wire() -> None:
    spec = policy(minKV="4Gi", maxKV=1000, hitRateLoss={"missRatioPercent": 7}).spec
    assert (spec.min_kv_bytes, spec.max_kv_bytes) == (4 << 30, 1000)
    written = spec.to_json()
    assert written["minKV"] == "4Gi"
    assert written["hitRateLoss"]["missRatioPercent"] == 7
    assert "lossBudget" not in written


@pytest.mark.parametrize(
    ("spec", "where", "what"),
    [
        ({"percentile": 97}, "spec.percentile", "99"),
        ({"observationWindow": "two days"}, "spec.observationWindow", "is no duration; write for example 48h"),
        ({"minKV": "lots"}, "spec.minKV", "is no quantity"),
        ({"windowCoverage": 0}, "spec.windowCoverage", "greater than 0"),
        ({"windowCoverage": float("nan")}, "spec.windowCoverage", "finite|greater"),
        ({"percentil": 99}, "spec.percentil", "not permitted"),
        ({"hitRateLoss": {"points": -1}}, "spec.hitRateLoss.points", "greater than 0"),
        ({"caution": "Reckless"}, "spec.caution", "Normal"),
        ({"restart": {"cooldown": "soon"}}, "spec.restart.cooldown", "is no duration"),
    ],
)
def test_a_fault_names_the_field(spec: dict[str, Any], where: str, what: str) -> None:
    with pytest.raises(InvalidObjectError, match=f"VLLMPolicy p: {where}.*({what})"):
        policy(**spec)


def test_another_group_or_kind_is_refused() -> None:
    with pytest.raises(InvalidObjectError, match="apiVersion"):
        VLLMPolicy.from_json({"apiVersion": "v1", "kind": "VLLMPolicy", "metadata": {"name": "p"}})
    with pytest.raises(InvalidObjectError, match="kind"):
        VLLMPolicy.from_json({"apiVersion": API_VERSION, "kind": "Pod", "metadata": {"name": "p"}})


def test_metadata_that_is_not_ours_is_kept() -> None:
    raw = {"name": "p", "managedFields": [{"manager": "kubectl"}], "creationTimestamp": "2026-01-01T00:00:00Z"}
    found = VLLMPolicy.from_json({"apiVersion": API_VERSION, "kind": "VLLMPolicy", "metadata": raw})
    assert found.to_json()["metadata"] == raw


def recommendation(status: RecommendationStatus) -> VLLMRecommendation:
    reference = TargetRef(group="apps", kind="Deployment", name="llama", container="vllm")
    return VLLMRecommendation(
        metadata=ObjectMeta(name="r", namespace="chat"),
        kind="VLLMRecommendation",
        spec=RecommendationSpec(target_ref=reference),
        status=status,
    )


def test_what_is_written_is_read_back() -> None:
    """Also where values are absent: nothing that is None is written."""
    measured = Measured(
        vllm_version="0.32.0",
        model="llama",
        weights_bytes=1,
        overhead_bytes=2,
        kv_capacity_bytes=3,
        kv_block_bytes=1,
        kv_block_tokens=16,
        kv_active_peak_bytes=0,
        kv_demand_peak_bytes=0,
        kv_floor_bytes=1,
        allocated_bytes=6,
        hit_rate=None,
        requests=0,
        lookup_tokens=0,
        preemptions=0,
        admissions_blocked=0,
    )
    target = Target(
        kv_bytes=3,
        kv_blocks=3,
        allocation_bytes=6,
        gpu_memory_utilization="0.5000",
        flags=["--gpu-memory-utilization=0.5000"],
        predicted_hit_rate=None,
        bound_by="floor",
    )
    coverage = Coverage(window_seconds=60, covered_seconds=0, percent=0, samples=0, first_sample=None, last_sample=None)
    condition = Condition(
        type="Recommended",
        status="True",
        reason="Floor",
        message="…",
        last_transition_time=datetime(2026, 11, 21, 6, 30, 15, tzinfo=UTC),
    )
    bounds = [Bound(name="floor", kv_bytes=3, message="…")]
    for status in (
        RecommendationStatus(),
        RecommendationStatus(
            measured=measured, target=target, coverage=coverage, conditions=[condition], bounds=bounds
        ),
    ):
        written = recommendation(status)
        assert VLLMRecommendation.from_json(written.to_json()) == written
    assert written.to_json()["status"]["conditions"][0]["lastTransitionTime"] == "2026-11-21T06:30:15Z"
    assert written.condition("Recommended") == condition
    assert written.condition("Applied") is None
    assert written.spec.target_ref.workload == WorkloadRef("apps", "Deployment", "llama")


@pytest.mark.parametrize("utilization", ["0.5", "1.0001", "2.0000", ".5000", "0.50000"])
def test_a_utilization_has_four_decimals(utilization: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Target(
            kv_bytes=1, kv_blocks=1, allocation_bytes=1, gpu_memory_utilization=utilization, flags=[], bound_by="floor"
        )


def test_the_whole_contract_of_a_cluster_automation() -> None:
    """Also what nothing reads yet: an object as documented must not end automation."""
    groups = [
        {"name": "ray", "owner": {"group": "ray.io", "kind": "RayCluster"}},
        {"name": "teams", "matchLabels": {"tier": "llm"}, "byLabels": ["team", "app"]},
    ]
    spec = {"vllmOptimize": True, "emitter": "kai-nvfractions", "customOwnerGroups": groups}
    raw = {"apiVersion": API_VERSION, "kind": "ClusterAutomation", "metadata": {"name": "default"}, "spec": spec}
    assert ClusterAutomation.from_json(raw).to_json()["spec"] == spec
    with pytest.raises(InvalidObjectError, match=r"spec\.emitter"):
        ClusterAutomation.from_json({**raw, "spec": {"emitter": "slurm"}})
