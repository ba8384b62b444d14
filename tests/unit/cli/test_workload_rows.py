"""What `list` says of a workload: its figures over all replicas, and its state in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from recommender import conditions
from recommender.api.objects import Condition, ObjectMeta
from recommender.api.recommendations import (
    EstimatedPool,
    Measured,
    Money,
    RecommendationSpec,
    RecommendationStatus,
    Resolved,
    Savings,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.samples import ASLEEP, KVCACHED, NO_KV_CACHE
from vllm_rightsizer.reading_options import SortColumn
from vllm_rightsizer.workload_rows import Row, row_of, sorted_by, total_of
from vllm_rightsizer.workload_states import state_of

GiB = 1 << 30
NOW = datetime(2026, 11, 1, tzinfo=UTC)
REPORTING = ("PluginReporting", "True", "Reporting")
RECOMMENDED = ("Recommended", "True", "HitRate")
WAITING = ("Applied", "False", "AwaitingNewPods")

MEASURED = Measured(
    vllm_version="0.32.0",
    model="meta-llama/Llama-3.1-8B-Instruct",
    weights_bytes=15 * GiB,
    overhead_bytes=2 * GiB,
    kv_capacity_bytes=50 * GiB,
    kv_block_bytes=GiB >> 9,
    kv_block_tokens=16,
    kv_active_peak_bytes=3 * GiB,
    kv_demand_peak_bytes=4 * GiB,
    kv_floor_bytes=GiB,
    allocated_bytes=70 * GiB,
    hit_rate=0.65,
    requests=1000,
    lookup_tokens=100_000,
    preemptions=0,
    admissions_blocked=0,
)
TARGET = Target(
    kv_bytes=10 * GiB,
    kv_blocks=5120,
    allocation_bytes=30 * GiB,
    gpu_memory_utilization="0.3767",
    flags=[],
    predicted_hit_rate=0.64,
    bound_by="hitRate",
)
MONEY = Money(
    currency="EUR", bankable_per_month=100.0, potential_per_month=0.0, gpu_hour=2.0, priced_at="2026-11-01", source="us"
)
SAVINGS = Savings(bytes=40 * GiB, share_of_pool=0.8, money=MONEY)
SIZED = RecommendationStatus(measured=MEASURED, target=TARGET, savings=SAVINGS)


def recommendation(
    *said: tuple[str, str, str],
    status: RecommendationStatus = SIZED,
    name: str = "llama",
    paused: bool = False,
) -> VLLMRecommendation:
    found = [
        Condition.model_validate(
            {"type": type_, "status": holds, "reason": reason, "message": f"of {type_}", "lastTransitionTime": NOW}
        )
        for type_, holds, reason in said
    ]
    return VLLMRecommendation(
        kind="VLLMRecommendation",
        metadata=ObjectMeta(name=f"deployment-{name}-vllm-00000000", namespace="chat"),
        spec=RecommendationSpec(
            target_ref=TargetRef(group="apps", kind="Deployment", name=name, container="vllm"), paused=paused
        ),
        status=status.model_copy(update={"conditions": found}),
    )


def counted(replicas: int | None, gpus: int | None) -> RecommendationStatus:
    return SIZED.model_copy(update={"replicas": replicas, "gpus": gpus})


def assigned(status: RecommendationStatus, policy: str) -> RecommendationStatus:
    return status.model_copy(update={"policy": Resolved(value=policy, source="workload")})


def test_figures_of_all_gpus_of_all_replicas() -> None:
    row = row_of(recommendation(REPORTING, RECOMMENDED, WAITING, status=assigned(counted(3, 6), "careful")))
    assert (row.replicas, row.gpus) == (3, 6)
    assert row.allocated_bytes == 6 * 70 * GiB
    assert row.used_bytes == 6 * (15 + 2 + 3) * GiB
    assert row.recommended_bytes == 6 * 30 * GiB
    assert row.saved_bytes == 6 * 40 * GiB
    assert row.saved_share == pytest.approx(40 / 70)
    assert (row.hit_rate, row.predicted_hit_rate) == (0.65, 0.64)
    assert (row.kv_bytes, row.recommended_kv_bytes, row.bound_by) == (50 * GiB, 10 * GiB, "hitRate")
    assert (row.bankable_per_month, row.currency) == (100.0, "EUR")
    assert row.model == "meta-llama/Llama-3.1-8B-Instruct"
    assert (row.policy, row.to_json()["policy"]) == ("careful", "careful")
    assert row.state.words == "waits for new pods"


def test_no_pods_no_figures() -> None:
    row = row_of(recommendation(("PluginReporting", "False", "NoPods"), RECOMMENDED, status=counted(0, 0)))
    assert (row.replicas, row.gpus, row.allocated_bytes, row.saved_share) == (0, 0, None, None)
    assert row.recommended_kv_bytes == 10 * GiB


def test_pods_that_nobody_counted_yet() -> None:
    row = row_of(recommendation(REPORTING, RECOMMENDED))
    assert (row.replicas, row.gpus, row.allocated_bytes) == (None, None, None)


def test_what_is_only_estimated_has_a_hit_rate() -> None:
    estimated = EstimatedPool(
        kv_pool_blocks=100,
        kv_block_tokens=16,
        kv_low_blocks=10,
        kv_high_blocks=90,
        confidence=0.9,
        hit_rate=0.5,
        preemptions=0,
        samples=9,
        since=NOW,
    )
    status = RecommendationStatus(estimated=estimated)
    said = ("PluginReporting", "False", conditions.ESTIMATED)
    row = row_of(recommendation(said, ("Recommended", "False", conditions.ESTIMATED), status=status))
    assert (row.hit_rate, row.model, row.allocated_bytes, row.recommended_bytes) == (0.5, None, None, None)
    assert row.state.words == "only estimated"


def test_the_total_keeps_what_is_allocated_where_nothing_is_recommended() -> None:
    unsized = recommendation(status=RecommendationStatus(replicas=2, gpus=2, measured=MEASURED))
    total = total_of([row_of(recommendation(status=counted(1, 1))), row_of(unsized)])
    assert (total.workloads, total.replicas, total.gpus) == (2, 3, 3)
    assert total.allocated_bytes == 210 * GiB
    assert total.recommended_bytes == (30 + 140) * GiB
    assert total.saved_bytes == 40 * GiB
    assert total.saved_share == pytest.approx(40 / 210)


@pytest.mark.parametrize(
    ("currencies", "total"), [(("EUR", "EUR"), (200.0, "EUR")), (("EUR", "USD"), (None, None)), ((), (None, None))]
)
def test_money_is_summed_up_in_one_currency(
    currencies: tuple[str, ...], total: tuple[float | None, str | None]
) -> None:
    money = [MONEY.model_copy(update={"currency": currency}) for currency in currencies]
    statuses = [
        SIZED.model_copy(update={"savings": SAVINGS.model_copy(update={"money": one})}) for one in (*money, None)
    ]
    found = total_of([row_of(recommendation(status=status)) for status in statuses])
    assert (found.bankable_per_month, found.currency) == total


def test_a_total_of_nothing_known() -> None:
    total = total_of([row_of(recommendation(status=RecommendationStatus()))])
    assert (total.replicas, total.allocated_bytes, total.saved_bytes, total.saved_share) == (0, None, None, None)


def rows() -> list[Row]:
    growing = counted(3, 3).model_copy(update={"savings": SAVINGS.model_copy(update={"bytes": -GiB})})
    growing = assigned(growing, "careful")
    nothing = RecommendationStatus(replicas=1, gpus=1)
    made = [
        recommendation(name="b", status=growing),
        recommendation(name="c", status=nothing),
        recommendation(name="a", status=assigned(counted(2, 2), "default")),
    ]
    return [row_of(one) for one in made]


@pytest.mark.parametrize(
    ("column", "order"),
    [
        (SortColumn.WORKLOAD, "abc"),
        (SortColumn.REPLICAS, "bac"),
        (SortColumn.SAVING, "abc"),
        (SortColumn.ALLOCATED, "bac"),
        (SortColumn.MODEL, "abc"),
        (SortColumn.POLICY, "bac"),
        (SortColumn.HIT_RATE, "abc"),
    ],
)
def test_sorting_puts_the_unknown_last(column: SortColumn, order: str) -> None:
    assert "".join(row.key.workload.name for row in sorted_by(rows(), column)) == order


@pytest.mark.parametrize("column", SortColumn)
def test_every_column_can_be_sorted_by(column: SortColumn) -> None:
    assert len(sorted_by(rows(), column)) == 3


@pytest.mark.parametrize(
    ("said", "words", "mood"),
    [
        ((), "not looked at yet", "waiting"),
        ((("PluginReporting", "False", "NoPods"), RECOMMENDED), "no pods", "waiting"),
        ((("PluginReporting", "False", conditions.PLUGIN_MISSING), RECOMMENDED), "no plugin in the pods", "bad"),
        ((("PluginReporting", "False", "ScrapeFailed"), RECOMMENDED, WAITING), "pods say nothing", "bad"),
        ((REPORTING, ("Recommended", "False", "InsufficientData")), "still measuring", "waiting"),
        ((REPORTING, ("Recommended", "False", "PolicyInvalid")), "policy invalid", "bad"),
        ((("PluginReporting", "True", ASLEEP), ("Recommended", "False", ASLEEP)), "asleep", "waiting"),
        ((("PluginReporting", "True", KVCACHED), ("Recommended", "False", KVCACHED)), "sized by kvcached", "off"),
        ((REPORTING, ("Recommended", "False", NO_KV_CACHE)), "no KV cache", "off"),
        ((REPORTING, ("Recommended", "False", "FromTheFuture")), "from the future", "bad"),
        ((REPORTING, RECOMMENDED), "recommended", "waiting"),
        ((REPORTING, RECOMMENDED, ("Applied", "False", "AutomationOff")), "automation off", "off"),
        ((REPORTING, RECOMMENDED, ("Applied", "False", "DryRun")), "dry run", "off"),
        ((REPORTING, RECOMMENDED, ("Applied", "True", "PoolAsRecommended")), "applied", "good"),
        (
            (REPORTING, RECOMMENDED, ("Applied", "True", "PoolAsRecommended"), ("Verified", "True", "AsPredicted")),
            "applied, verified",
            "good",
        ),
        ((REPORTING, RECOMMENDED, ("Applied", "True", "RaisedToStart")), "applied, raised to start", "waiting"),
        (
            (REPORTING, ("Recommended", "False", "Withdrawn"), ("Degraded", "True", "StartFailed")),
            "withdrawn",
            "bad",
        ),
        (
            (REPORTING, RECOMMENDED, WAITING, ("AutoscalerConflict", "True", "ScaledByPoolUsage")),
            "waits for new pods, misleads autoscaler",
            "bad",
        ),
        (
            (REPORTING, ("Recommended", "True", conditions.SHORT), ("Applied", "True", "PoolAsRecommended")),
            "applied, short of KV cache",
            "bad",
        ),
        (
            (REPORTING, ("Recommended", "True", "LastValidPolicy"), WAITING),
            "waits for new pods, policy invalid",
            "bad",
        ),
    ],
)
def test_states_in_words(said: tuple[tuple[str, str, str], ...], words: str, mood: str) -> None:
    state = state_of(recommendation(*said))
    assert (state.words, state.mood) == (words, mood)


def test_the_message_is_that_of_the_condition_that_decided() -> None:
    assert state_of(recommendation(REPORTING, RECOMMENDED, WAITING)).message == "of Applied"
    degraded = ("Degraded", "True", "StartFailed")
    found = state_of(recommendation(REPORTING, RECOMMENDED, WAITING, degraded))
    assert (found.reason, found.message) == ("StartFailed", "of Degraded")


def test_who_pauses_it_wins_over_everything() -> None:
    assert state_of(recommendation(REPORTING, ("Degraded", "True", "StartFailed"), paused=True)).words == "paused"
