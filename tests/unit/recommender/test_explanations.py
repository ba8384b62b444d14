"""Every number can be explained."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from evaluated import pod
from synthetic import BLOCK_BYTES, KEY, cluster_objects, facts, policy_object, series

from recommender.api.automation import Automation
from recommender.api.object_store import FileObjectStore
from recommender.api.policies import PolicySpec
from recommender.evaluation import evaluate
from recommender.explanations import NothingToExplainError, explain
from recommender.history import History
from recommender.history_files import HistoryError
from recommender.intervals import ClosedInterval, Series
from recommender.resolution import ResolvedPolicy
from recommender.samples import Counters
from recommender.standings import Memory
from recommender.workload_states import PodReport, WorkloadState

W = 48 * 3600.0
NOW = 1_000_000 * W / 96
POLICY = ResolvedPolicy("default", PolicySpec())


def observed() -> Series:
    draw = random.Random(1)
    return series(
        [[draw.randrange(1200) if draw.random() < 0.75 else None for _ in range(60)] for _ in range(96)], W, NOW
    )


def fill(folder: Path, one: Series) -> FileObjectStore:
    """A store and a history as a recommender leaves them."""
    store = FileObjectStore(folder / "objects")
    for obj in (*cluster_objects(), policy_object()):
        store.apply(obj)
    automation = Automation(False, True, "AutomatedNamespace", "default", "default", False)
    report = PodReport(pod(), (facts(),))
    with History.open(folder / "history.db") as history:
        history.append(
            ClosedInterval(one.key, one.facts, interval, Counters(0, 0, 0, 0, 0), interval.end, interval.end + W)
            for interval in one.intervals
        )
        state = WorkloadState(KEY, (report,), automation, POLICY, None, None)
        evaluation = evaluate(state, (one,), (), NOW)
        sizing = evaluation.assessment.sizing
        if sizing and sizing.candidate_bytes:
            asked = sizing.candidate_bytes
            history.remember([Memory(KEY, one.key.fingerprint, POLICY.digest, NOW, asked, NOW + W, None, NOW + W)])
    store.apply(evaluation.recommendation.to_json())
    return store


def test_every_part_of_a_recommendation(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    with History.open(tmp_path / "history.db"):
        found = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    target = found.recommendation.status.target
    assert target is not None
    assert found.decided_by == target.bound_by == "hitRate"
    assert "points of hit rate" in found.decision
    assert [guard.passed for guard in found.guards] == [True, True, True]
    assert found.knees is not None
    assert found.knees.rolling_windows == 41
    assert found.pools is not None
    assert found.candidates == (pytest.approx(target.kv_bytes, abs=BLOCK_BYTES),)
    assert len(found.intervals) == 96
    assert sum(row.requests for row in found.intervals) == found.recommendation.status.measured.requests
    sizes = [point.kv_bytes for point in found.curve]
    assert sizes == sorted(sizes)
    assert found.pools.own_bytes in sizes
    rates = [point.hit_rate for point in found.curve]
    assert rates == sorted(rates)
    assert json.loads(json.dumps(found.to_json()))["knees"]["rollingWindows"] == 41
    assert {bound["name"] for bound in found.to_json()["bounds"]} >= {"hitRate", "demand", "floor"}


def test_by_the_objects_own_name(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    by_workload = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    name = by_workload.recommendation.metadata.name
    assert explain(store, tmp_path / "history.db", KEY.namespace, name) == by_workload


def test_what_there_is_not(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    with pytest.raises(NothingToExplainError, match=r"mistral.*it has: llama \(deployment-llama-vllm-"):
        explain(store, tmp_path / "history.db", KEY.namespace, "mistral")
    with pytest.raises(NothingToExplainError, match="it has none"):
        explain(store, tmp_path / "history.db", "elsewhere", "llama")
    with pytest.raises(HistoryError, match="--history"):
        explain(store, tmp_path / "nowhere.db", KEY.namespace, "llama")


def test_a_history_that_knows_nothing_of_it(tmp_path: Path) -> None:
    store = fill(tmp_path, observed())
    (tmp_path / "history.db").unlink()
    History.open(tmp_path / "history.db").close()
    found = explain(store, tmp_path / "history.db", KEY.namespace, "llama")
    assert "holds nothing" in found.decision
    assert found.to_json()["intervals"] == []
