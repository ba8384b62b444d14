"""`explain` tells savings apart, prices them, and shows what a dry run would change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from recommender.api.object_store import FileObjectStore
from recommender.api.objects import ObjectMeta
from recommender.api.recommendations import (
    Money,
    RecommendationSpec,
    RecommendationStatus,
    Savings,
    TargetRef,
    VLLMRecommendation,
)
from recommender.history import History

Cli = Callable[..., CompletedProcess[str]]
Explained = Callable[..., CompletedProcess[str]]
GiB = 1 << 30
MONEY = Money(
    currency="USD",
    bankable_per_month=1234.5,
    potential_per_month=99.25,
    gpu_hour=6.88,
    priced_at="2026-07-20",
    source="AWS on-demand",
)


@pytest.fixture
def explained(cli: Cli, tmp_path: Path) -> Explained:
    """Explain a workload of which this is known, and no sample."""

    def explain(*options: str, **status: Any) -> CompletedProcess[str]:
        reference = TargetRef(group="apps", kind="Deployment", name="llama", container="vllm")
        recommendation = VLLMRecommendation(
            metadata=ObjectMeta(name="deployment-llama-vllm-00000000", namespace="chat"),
            spec=RecommendationSpec(target_ref=reference),
            status=RecommendationStatus(fingerprint="f" * 16, **status),
        )
        FileObjectStore(tmp_path / "objects").apply(recommendation.to_json())
        history = tmp_path / "history.db"
        History.open(history).close()
        where = ("--objects", str(tmp_path / "objects"), "--history", str(history), "-n", "chat")
        return cli("explain", "llama", *where, *options)

    return explain


def savings(**more: Any) -> Savings:
    return Savings(
        bytes=52 * GiB,
        share_of_pool=0.9,
        bankable_bytes=40 * GiB,
        potential_bytes=12 * GiB,
        bankable_gpus=1.5,
        potential_gpus=0.45,
        **more,
    )


def test_both_kinds_and_their_money(explained: Explained) -> None:
    done = explained(savings=savings(money=MONEY))
    assert done.returncode == 0, done.stderr
    rows = {line.split(":")[0]: line.split() for line in done.stdout.splitlines() if ":" in line}
    assert rows["bankable"][-4:] == ["40.00", "GiB", "1.50", "1234.50"]
    assert rows["potential"][-4:] == ["12.00", "GiB", "0.45", "99.25"]
    assert "USD a month, prices of 2026-07-20" in done.stdout
    assert "6.88 USD for an hour of a GPU: AWS on-demand" in done.stdout
    told = json.loads(explained("-o", "json", savings=savings(money=MONEY)).stdout)
    found = told["recommendation"]["status"]["savings"]
    assert (found["bankableBytes"], found["potentialGPUs"]) == (40 * GiB, 0.45)
    assert found["money"]["pricedAt"] == "2026-07-20"


def test_no_amount_where_no_price_is_known(explained: Explained) -> None:
    done = explained(savings=savings(no_price="NVIDIA-L4 is in no table"))
    assert "No price: NVIDIA-L4 is in no table" in done.stdout
    assert done.stdout.count("unknown") == 2


def test_what_a_dry_run_would_change(explained: Explained) -> None:
    done = explained(would_change=["- --gpu-memory-utilization=0.9", "+ nvidia.com/gpumem: 30721"])
    assert "Dry run: what would change in a pod" in done.stdout
    assert "- --gpu-memory-utilization=0.9" in done.stdout
    assert "+ nvidia.com/gpumem: 30721" in done.stdout
    assert "Dry run" not in explained().stdout


def test_advice_about_the_longest_request(explained: Explained) -> None:
    advice = {
        "max_model_len": 131072,
        "longest_request_tokens": 9000,
        "suggested_max_model_len": 10240,
        "kv_bytes": 1 << 30,
        "message": "with --max-model-len=10240 [1 GiB] would do",
    }
    assert advice["message"] in explained(max_model_len_advice=advice).stdout
    told = json.loads(explained("-o", "json", max_model_len_advice=advice).stdout)
    assert told["recommendation"]["status"]["maxModelLenAdvice"]["suggestedMaxModelLen"] == 10240
    assert "max-model-len" not in explained().stdout
