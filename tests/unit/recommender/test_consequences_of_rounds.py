"""A recommender's rounds: nodes and prices reach the status, and a claim is named once it is there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from synthetic import KEY, SyntheticEngine, cluster_objects, pod_object, policy_object, served

from recommender import evaluating
from recommender.api.claims import KIND
from recommender.api.object_store import FileObjectStore
from recommender.api.objects import ObjectMeta
from recommender.api.policies import ClusterAutomation, ClusterAutomationSpec
from recommender.api.recommendations import Savings, Target
from recommender.api.workloads import recommendation_name
from recommender.history import History
from recommender.prices import PriceMap, Prices
from recommender.recommending import Recommender
from recommender.scraping import Scraper
from recommender.telemetry import Telemetry
from vllm_plugin.names import ANNOTATION_EMITTED

GiB = 1 << 30
NAME = recommendation_name(KEY.workload, KEY.container)
PRODUCT = "NVIDIA-H100-80GB-HBM3"


def sized(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """`evaluate`, with a size where there is none: a window is longer than a test."""
    target = Target(
        kv_bytes=GiB,
        kv_blocks=512,
        allocation_bytes=19 * GiB,
        gpu_memory_utilization="0.2375",
        flags=["--gpu-memory-utilization=0.2375", f"--kv-cache-memory-bytes={GiB}"],
        bound_by="hitRate",
    )
    savings = Savings(bytes=7 * GiB, share_of_pool=0.875)

    def evaluated(*arguments: Any) -> Any:
        found = evaluate(*arguments)
        status = found.recommendation.status.model_copy(update={"target": target, "savings": savings})
        recommendation = found.recommendation.model_copy(update={"status": status})
        return type(found)(recommendation, found.assessment, found.standing)

    return evaluated


class Rounds:
    def __init__(self, store: FileObjectStore, recommender: Recommender, telemetry: Telemetry) -> None:
        self.store, self.recommender, self.telemetry = store, recommender, telemetry

    async def status(self) -> dict[str, Any]:
        """After one more round."""
        await self.recommender.round()
        found = self.store.get("VLLMRecommendation", KEY.namespace, NAME)
        assert found is not None
        status: dict[str, Any] = found["status"]
        return status

    def automate(self, **spec: Any) -> None:
        automation = ClusterAutomationSpec.model_validate({"vllmOptimize": True, **spec})
        self.store.apply(ClusterAutomation(metadata=ObjectMeta(name="default"), spec=automation).to_json())


@pytest.fixture
async def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rounds]:
    monkeypatch.setattr(evaluating, "evaluate", sized(evaluating.evaluate))
    store = FileObjectStore(tmp_path / "objects")
    engine, telemetry = SyntheticEngine(), Telemetry()
    prices = Prices(PriceMap(date=date(2026, 11, 1), products={PRODUCT: 2.0}))
    with served(lambda: engine.page().encode()) as port, History.open(tmp_path / "history.db") as history:
        pod = pod_object(port)
        pod["spec"]["nodeName"] = "n1"
        pod["spec"]["containers"][1]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
        node = {"kind": "Node", "metadata": {"name": "n1", "labels": {"nvidia.com/gpu.product": PRODUCT}}}
        for obj in (*cluster_objects(), policy_object(), pod, node):
            store.apply(obj)
        async with Scraper() as scraper:
            yield Rounds(store, Recommender(store, history, scraper, telemetry, lambda: prices), telemetry)


async def test_savings_are_priced_and_exported(rounds: Rounds) -> None:
    status = await rounds.status()
    money = status["savings"]["money"]
    assert money["potentialPerMonth"] == pytest.approx(7 / 80 * 2 * 730, abs=0.01)
    assert (money["pricedAt"], money["gpuHour"]) == ("2026-11-01", 2.0)
    labels = {"namespace": "chat", "kind": "Deployment", "workload": "llama", "container": "vllm"}
    value = rounds.telemetry.registry.get_sample_value
    assert value("vllm_rightsizer_workload_savings_gpus", {**labels, "use": "potential"}) == pytest.approx(7 / 80)
    cost = value("vllm_rightsizer_workload_requested_money_per_month", {**labels, "currency": "USD"})
    assert cost == pytest.approx(status["measured"]["allocatedBytes"] / (80 * GiB) * 2 * 730, abs=0.01)
    assert value("vllm_rightsizer_workload_automated", {**labels, "source": status["automation"]["source"]}) == 1


async def test_a_claim_is_named_once_it_is_there(rounds: Rounds) -> None:
    rounds.automate(emitter="dra")
    # Nobody is there to own it.
    assert "claimTemplate" not in await rounds.status()
    status = await rounds.status()
    [template] = rounds.store.list(KIND, KEY.namespace)
    assert status["claimTemplate"] == template["metadata"]["name"]
    assert status["claimTemplate"].startswith(NAME)
    rounds.store.delete(KIND, KEY.namespace, status["claimTemplate"])
    assert (await rounds.status())["claimTemplate"] == status["claimTemplate"]
    assert rounds.store.list(KIND, KEY.namespace) == [template]
    rounds.automate(emitter="hami")
    assert "claimTemplate" not in await rounds.status()


async def test_a_claim_that_takes_its_time(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server has not answered yet: the status names it in the round after it has."""
    rounds.automate(emitter="dra")
    waiting: list[dict[str, Any]] = []
    applied = rounds.store.apply

    def later(obj: dict[str, Any]) -> bool:
        if obj["kind"] == KIND:
            waiting.append(obj)
            return True
        return applied(obj)

    monkeypatch.setattr(rounds.store, "apply", later)
    await rounds.status()
    assert "claimTemplate" not in await rounds.status()
    applied(waiting[-1])
    assert (await rounds.status())["claimTemplate"] == waiting[-1]["metadata"]["name"]


async def test_a_dry_run_shows_what_would_change(rounds: Rounds) -> None:
    rounds.automate(mode="DryRun")
    await rounds.status()
    status = await rounds.status()
    assert status["wouldChange"] == [
        f"+ VLLM_RIGHTSIZER_KV_BYTES={GiB}",
        f"+ VLLM_RIGHTSIZER_ALLOCATION_BYTES={19 * GiB}",
    ]
    rounds.automate(mode="Apply")
    assert "wouldChange" not in await rounds.status()


async def test_a_slice_is_not_taken_for_the_gpu(rounds: Rounds) -> None:
    [pod], [node] = rounds.store.list("Pod"), rounds.store.list("Node")
    emitted = {"emitter": "hami", "bytes": 27 * GiB, "edits": []}
    pod["metadata"]["annotations"][ANNOTATION_EMITTED] = json.dumps(emitted)
    node["metadata"]["labels"]["nvidia.com/gpu.memory"] = str(96 << 10)
    rounds.store.apply(pod)
    rounds.store.apply(node)
    status = await rounds.status()
    assert status["gpuMemoryTotalBytes"] == {"min": 96 * GiB, "max": 96 * GiB}
    savings = status["savings"]
    assert (savings["bankableBytes"], savings["potentialBytes"]) == (7 * GiB, 0)
