"""`what-if`, as a user types it, on what a recommender left."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from recommender.api.object_store import FileObjectStore
from recommender.api.objects import ObjectMeta
from recommender.api.policies import PolicySpec, VLLMPolicy
from recommender.api.recommendations import RecommendationSpec, RecommendationStatus, TargetRef, VLLMRecommendation
from recommender.api.workloads import WorkloadRef
from recommender.histograms import BUCKETS, pack
from recommender.history import History
from recommender.intervals import ClosedInterval, Interval
from recommender.keys import SeriesKey, WorkloadKey
from recommender.samples import Counters, EngineFacts, Rank

Cli = Callable[..., CompletedProcess[str]]

GiB = 1 << 30
KEY = WorkloadKey("chat", WorkloadRef("apps", "Deployment", "llama"), "vllm")


@pytest.fixture
def left(tmp_path: Path) -> tuple[str, ...]:
    """Options that name the objects and the history of one workload, which hits evenly up to 6 of its 8 GiB."""
    rank = Rank("0", 16 * GiB, 2 * GiB, 8 * GiB, GiB >> 9, 80 * GiB, 26 * GiB)
    facts = EngineFacts("0.32.0", "llama", GiB >> 9, 16, 8 * GiB, GiB >> 1, (rank,))
    draw = random.Random(1)
    with History.open(tmp_path / "history.db") as history:
        for index in range(96):
            counts = [0] * BUCKETS
            for _ in range(200):
                counts[min(int(8 * 10 + 8 * draw.random() * 2.5), BUCKETS - 2)] += 1
            cumulative = [sum(counts[: place + 1]) + (50 if place == BUCKETS - 1 else 0) for place in range(BUCKETS)]
            interval = Interval(
                start=index * 1800.0,
                seconds=1800.0,
                covered_seconds=1800.0,
                samples=60,
                capacity_bytes=8 * GiB,
                active_peak_bytes=GiB >> 1,
                demand_peak_bytes=GiB >> 1,
                requests=100,
                lookup_tokens=250 * 16,
                hit_tokens=200 * 16,
                reuse=pack(cumulative),
            )
            key = SeriesKey(KEY, "f" * 16, "llama-0", "", "0")
            history.append([ClosedInterval(key, facts, interval, Counters(0, 0, 0, 0, 0), interval.end, 1e12)])
    store = FileObjectStore(tmp_path / "objects")
    for name, spec in (("default", PolicySpec()), ("bold", PolicySpec(percentile=80))):
        store.apply(VLLMPolicy(metadata=ObjectMeta(name=name), spec=spec).to_json())
    recommendation = VLLMRecommendation(
        metadata=ObjectMeta(name="deployment-llama-vllm-00000000", namespace="chat"),
        spec=RecommendationSpec(target_ref=TargetRef(group="apps", kind="Deployment", name="llama", container="vllm")),
        status=RecommendationStatus(fingerprint="f" * 16),
    )
    store.apply(recommendation.to_json())
    return "--objects", str(tmp_path / "objects"), "--history", str(tmp_path / "history.db")


def test_a_table(cli: Cli, left: tuple[str, ...]) -> None:
    done = cli("what-if", *left, "--set", "hitRateLoss.points=5", "--set", "hitRateLoss.missRatioPercent=50")
    assert done.returncode == 0, done.stderr
    head, row = done.stdout.strip().splitlines()
    assert "own pool" in head
    assert "8.00 GiB" in row
    # Weights and overhead are 18 GiB.
    size = float(row.split()[4])
    assert f"– → {18 + size:.2f}" in row
    assert "chat/" in row


def test_several_are_summed_up(cli: Cli, left: tuple[str, ...]) -> None:
    store = FileObjectStore(Path(left[1]))
    [raw] = store.list(VLLMRecommendation.KIND)
    store.apply({**raw, "metadata": {**raw["metadata"], "name": "again", "namespace": "dev"}})
    done = cli("what-if", *left, "--set", "minKV=7Gi")
    lines = done.stdout.splitlines()
    assert lines[3].split()[:9] == ["all", "2", "8.00", "GiB", "8.00", "GiB", "7.00", "GiB", "-1.00"]
    assert "dev/Deployment/llama/vllm: nothing would be recommended" in done.stdout


def test_json_for_programs(cli: Cli, left: tuple[str, ...]) -> None:
    done = cli("what-if", "llama", *left, "-n", "chat", "--set", "minKV=7Gi", "-o", "json")
    (found,) = json.loads(done.stdout)
    assert found["now"] is None
    assert found["then"]["kvBytes"] == 7 * GiB
    assert found["then"]["boundBy"] == "minKV"
    assert found["then"]["allocationBytes"] == 25 * GiB
    assert found["then"]["partsOver"] == 0


def test_another_policy_by_name(cli: Cli, left: tuple[str, ...]) -> None:
    done = cli("what-if", *left, "--policy", "bold", "-o", "json")
    assert json.loads(done.stdout)[0]["then"]["kvBytes"] < 8 * GiB


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say which policy to try"),
        (("--policy", "bolder"), "there is no VLLMPolicy bolder; there is: bold, default"),
        (("--set", "percentile"), "is no FIELD=VALUE"),
        (("--set", "percentile=97"), "percentile"),
        (("--set", "percentil=95"), "set percentil: there is no such field: see `kubectl explain vllmpolicy.spec"),
        (("lama", "--set", "percentile=95"), "no workload lama has a recommendation: did you mean llama?"),
        (("llama", "-n", "elsewhere", "--set", "percentile=95"), "no workload llama in namespace elsewhere"),
        (("a/b/c/d", "--set", "percentile=95"), "a/b/c/d names no workload: give NAME, KIND/NAME or"),
    ],
)
def test_what_cannot_be_tried_is_said(
    cli: Cli, left: tuple[str, ...], arguments: tuple[str, ...], message: str
) -> None:
    done = cli("what-if", *left, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert not done.stdout


def test_lines_for_spreadsheets(cli: Cli, left: tuple[str, ...]) -> None:
    done = cli("what-if", "deploy/llama", *left, "--set", "minKV=7Gi", "-o", "csv")
    [line] = csv.DictReader(io.StringIO(done.stdout))
    assert (line["namespace"], line["kind"], line["name"]) == ("chat", "Deployment", "llama")
    assert (line["nowKvBytes"], line["thenKvBytes"]) == ("", str(7 * GiB))
    assert line["thenBoundBy"] == "minKV"


def test_nothing_is_no_error(cli: Cli, left: tuple[str, ...]) -> None:
    done = cli("what-if", *left, "--set", "percentile=95", "-n", "elsewhere")
    assert (done.returncode, done.stdout) == (0, "")
    assert "elsewhere" in done.stderr
    done = cli("what-if", *left, "--set", "percentile=95", "-n", "elsewhere", "-o", "json")
    assert json.loads(done.stdout) == []
