"""What the recommender shows of each workload, as dashboards and alerts read it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluated import NOW, OBSERVED, ON, OWN, pod, state, target_of
from prometheus_client import CollectorRegistry
from synthetic import BLOCK_BYTES, KEY

from recommender.consequences import Cost
from recommender.evaluation import evaluate
from recommender.workload_figures import WorkloadCollector, figures_of
from recommender.workload_states import PodReport

LABELS = {"namespace": "chat", "kind": "Deployment", "workload": "llama", "container": "vllm"}


def test_the_figures_are_those_of_the_evaluation() -> None:
    evaluation = evaluate(state(), OBSERVED, (), NOW)
    target = target_of(evaluation.recommendation)
    found = figures_of(evaluation, Cost(12.5, "EUR"))
    assert found.point is not None
    assert found.point.requested_bytes == found.point.original_bytes == OWN.ranks[0].allocated_bytes
    assert found.pools == {"own": OWN.capacity_bytes, "today": OWN.capacity_bytes, "recommended": target.kv_bytes}
    assert found.pool_hit_rates["recommended"] == pytest.approx(target.predicted_hit_rate, abs=1e-6)
    assert found.pool_hit_rates["own"] == found.pool_hit_rates["today"] == pytest.approx(found.hit_rate, abs=0.02)
    assert found.conditions["Degraded"] == "False"
    assert found.conditions["Recommended"] == "True"


def test_the_recommended_pool_is_what_requests_get() -> None:
    """What vLLM takes off the bytes that it is told is in no pool."""
    engine = replace(OWN, ranks=(replace(OWN.ranks[0], reserved_bytes=1 << 30),))
    evaluation = evaluate(state(PodReport(pod(), (engine,))), OBSERVED, (), NOW)
    target = target_of(evaluation.recommendation)
    found = figures_of(evaluation, None)
    assert found.pools["recommended"] == target.kv_blocks * BLOCK_BYTES == target.kv_bytes - (1 << 30)


def test_before_anything_is_observed_there_is_the_pool_of_today_and_no_hit_rate() -> None:
    found = figures_of(evaluate(state(), (), (), NOW), None)
    assert found.pools == {"own": OWN.capacity_bytes, "today": OWN.capacity_bytes}
    assert (found.point, found.hit_rate, found.pool_hit_rates) == (None, None, {})
    assert found.conditions["Recommended"] == "False"


def test_each_scrape_shows_what_was_set_last() -> None:
    collector, registry = WorkloadCollector(), CollectorRegistry()
    registry.register(collector)
    figures = figures_of(evaluate(state(), OBSERVED, (), NOW), Cost(12.5, "EUR"))
    collector.workloads, collector.pods, collector.allocatable_bytes = {KEY: figures}, (pod("llama-0"),), 80 << 30

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"vllm_rightsizer_{name}", labels)

    assert value("cluster_allocatable_bytes") == 80 << 30
    assert value("workload_pod_info", pod="llama-0", **LABELS) == 1
    assert value("workload_requested_bytes", **LABELS) == OWN.ranks[0].allocated_bytes
    assert value("workload_kv_pool_bytes", pool="own", **LABELS) == OWN.capacity_bytes
    assert value("workload_hit_rate_ratio", **LABELS) == figures.hit_rate
    assert value("workload_condition", type="Recommended", status="True", **LABELS) == 1
    assert value("workload_condition", type="Recommended", status="False", **LABELS) is None
    assert value("workload_requested_money_per_month", currency="EUR", **LABELS) == 12.5
    assert value("workload_automated", source="AutomatedNamespace", **LABELS) == 1
    assert value("workload_policy_info", policy="default", **LABELS) == 1

    off = replace(ON, enabled=False, enabled_source="pod")
    unpriced = figures_of(evaluate(state(automation=off), OBSERVED, (), NOW), None)
    collector.workloads = {KEY: unpriced}
    assert value("workload_automated", source="AutomatedNamespace", **LABELS) is None
    assert value("workload_automated", source="pod", **LABELS) == 0
    assert value("workload_requested_money_per_month", currency="EUR", **LABELS) is None

    collector.workloads, collector.pods, collector.allocatable_bytes = {}, (), None
    assert [sample for family in registry.collect() for sample in family.samples] == []
