"""What a size leads to: savings told apart and priced, templates of claims made and removed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from evaluated import ON, OWN, pod, recommend, state
from synthetic import KEY

from recommender.api.automation import Automation
from recommender.api.claims import KIND
from recommender.api.launches import Launch
from recommender.api.object_store import FileObjectStore
from recommender.api.recommendations import VLLMRecommendation
from recommender.claiming import ensure_claim
from recommender.consequences import Cost, Market, cost_of_claims, with_consequences
from recommender.gpu_nodes import GpuNode
from recommender.prices import PriceMap, Prices
from recommender.samples import EngineFacts
from recommender.telemetry import Telemetry
from recommender.workload_states import PodReport, WorkloadState
from vllm_plugin.names import ANNOTATION_EMITTED

GiB = 1 << 30
H100 = GpuNode("n1", "NVIDIA-H100-80GB-HBM3", 8, 80 * GiB)
MARKET = Market({"n1": H100}, Prices(PriceMap.model_validate({"date": "2026-11-01", "products": {H100.product: 2.0}})))


def running(
    name: str, request_bytes: int | None = None, node: str = "n1", gpus: int = 1, of: tuple[EngineFacts, ...] = ()
) -> PodReport:
    """A pod on one node that asks its scheduler for `request_bytes` of each GPU, or for whole ones."""
    emitted = json.dumps({"emitter": "hami", "bytes": request_bytes, "edits": []})
    annotations = {} if request_bytes is None else {ANNOTATION_EMITTED: emitted}
    return PodReport(
        # Too young to be missed among what was observed.
        dataclasses.replace(pod(name, age=3600), annotations=annotations, launch=Launch(node=node, gpus=gpus)),
        of or state().reports[0].engines,
    )


def completed(*reports: PodReport, market: Market = MARKET) -> VLLMRecommendation:
    of = state(*reports)
    return VLLMRecommendation.from_json(with_consequences(recommend(of), of, market).to_json())


def test_whole_gpus_are_potential() -> None:
    savings = completed(running("a"), running("b", gpus=2)).status.savings
    assert savings is not None
    assert savings.bytes > 0
    assert (savings.bankable_bytes, savings.potential_bytes) == (0, savings.bytes)
    share = savings.bytes / (80 * GiB)
    assert (savings.bankable_gpus, savings.potential_gpus) == (0, pytest.approx(3 * share, abs=1e-4))
    assert savings.money is not None
    assert savings.money.potential_per_month == pytest.approx(3 * share * 2 * 730, abs=0.02)
    assert savings.money.bankable_per_month == 0
    assert (savings.money.priced_at, savings.money.currency, savings.money.gpu_hour) == ("2026-11-01", "USD", 2.0)
    assert savings.money.source == "own price of product NVIDIA-H100-80GB-HBM3"


def test_what_no_scheduler_holds_is_bankable() -> None:
    """One pod asks for its share, the other was started before: of each GPU only what holds for both is told."""
    savings = completed(running("a", request_bytes=20 * GiB), running("b")).status.savings
    assert savings is not None
    assert (savings.bankable_bytes, savings.potential_bytes) == (0, savings.bytes)
    assert savings.bankable_gpus == savings.potential_gpus == pytest.approx(savings.bytes / (80 * GiB), abs=1e-4)
    savings = completed(running("a", request_bytes=20 * GiB)).status.savings
    assert savings is not None
    assert (savings.bankable_bytes, savings.potential_bytes) == (savings.bytes, 0)


@pytest.mark.parametrize(
    ("reports", "why"),
    [
        ([running("a"), running("b", node="n2")], "no known node"),
        ([running("a", gpus=0)], "no pod runs that asks for whole GPUs"),
        ([running("a", node="")], "no known node"),
    ],
)
def test_no_sum_where_a_price_is_missing(reports: list[PodReport], why: str) -> None:
    savings = completed(*reports).status.savings
    assert savings is not None
    assert savings.money is None
    assert why in (savings.no_price or "")


def test_a_claim_costs_its_share_of_the_gpus() -> None:
    """With a price of 2 an hour: 24 GiB of one of 80, and of each of two."""
    card = dataclasses.replace(OWN.ranks[0], total_bytes=80 * GiB, allocated_bytes=24 * GiB, capacity_bytes=GiB)
    one, two = (dataclasses.replace(OWN, ranks=(card,) * count) for count in (1, 2))
    reports = running("a", of=(one,)), running("b", gpus=2, of=(two,))
    assert cost_of_claims(state(*reports), MARKET) == Cost(round(3 * 24 / 80 * 2 * 730, 2), "USD")
    shared = running("a", request_bytes=20 * GiB, gpus=0, of=(one,))
    assert cost_of_claims(state(shared), MARKET) == Cost(round(24 / 80 * 2 * 730, 2), "USD")


def test_no_cost_where_a_price_is_missing_or_nothing_reports() -> None:
    reporting = running("a")
    silent = dataclasses.replace(running("b", node="n2"), engines=())
    assert cost_of_claims(state(reporting, silent), MARKET) is not None
    assert cost_of_claims(state(silent), MARKET) is None
    assert cost_of_claims(state(reporting, running("b", node="n2")), MARKET) is None


def test_metrics_of_savings() -> None:
    telemetry = Telemetry()
    savings = completed(running("a")).status.savings
    assert savings is not None
    telemetry.savings({KEY: savings})
    labels = {"namespace": "chat", "kind": "Deployment", "workload": "llama", "container": "vllm"}
    value = telemetry.registry.get_sample_value
    gpus = "vllm_rightsizer_workload_savings_gpus"
    assert value(gpus, {**labels, "use": "potential"}) == savings.potential_gpus > 0
    assert value(gpus, {**labels, "use": "bankable"}) == 0
    money = {**labels, "use": "potential", "currency": "USD"}
    assert value("vllm_rightsizer_workload_savings_money_per_month", money) == savings.money.potential_per_month  # type: ignore[union-attr]
    telemetry.savings({})
    assert value(gpus, {**labels, "use": "potential"}) is None


DRA = dataclasses.replace(ON, emitter="dra")


def claims(store: FileObjectStore) -> list[str]:
    return sorted(raw["metadata"]["name"] for raw in store.list(KIND))


def stored(of: WorkloadState) -> VLLMRecommendation:
    """The recommendation as the store has taken it."""
    found = recommend(of)
    return found.model_copy(update={"metadata": found.metadata.model_copy(update={"resource_version": "1"})})


def of_dra(automation: Automation = DRA, **launch: Any) -> WorkloadState:
    report = running("a", **launch)
    return state(report, automation=automation)


def test_the_claims_template_is_made_and_named(tmp_path: Path) -> None:
    store, of = FileObjectStore(tmp_path), of_dra(gpus=2)
    recommendation = stored(of)
    name = ensure_claim(store, recommendation, of)
    assert claims(store) == [name]
    [template] = store.list(KIND)
    assert template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"] == 2
    # No UID, no owner: an API server refuses a reference without one.
    assert "ownerReferences" not in template["metadata"]
    assert with_consequences(recommendation, of, MARKET, name).status.claim_template == name
    assert ensure_claim(store, recommendation, of) == name


def test_no_template_before_there_is_somebody_to_own_it(tmp_path: Path) -> None:
    store, of = FileObjectStore(tmp_path), of_dra()
    assert ensure_claim(store, recommend(of), of) is None
    assert not claims(store)


def test_a_template_is_owned_by_its_recommendation(tmp_path: Path) -> None:
    store, of = FileObjectStore(tmp_path), of_dra()
    found = stored(of)
    metadata = found.metadata.model_copy(update={"uid": "r-1"})
    ensure_claim(store, found.model_copy(update={"metadata": metadata}), of)
    [owner] = store.list(KIND)[0]["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("VLLMRecommendation", found.metadata.name, "r-1")


def test_the_template_waits_for_pods(tmp_path: Path) -> None:
    store, of = FileObjectStore(tmp_path), of_dra()
    found = stored(of)
    name = ensure_claim(store, found, of)
    before = with_consequences(found, of, MARKET, name)
    of = dataclasses.replace(of, reports=(), previous=before)
    assert ensure_claim(store, before, of) == name


def test_templates_of_sizes_long_past_go(tmp_path: Path) -> None:
    store, of = FileObjectStore(tmp_path), of_dra()
    recommendation = stored(of)
    status, made = recommendation.status, []
    assert status.target is not None
    for step in range(3):
        grown = status.target.model_copy(update={"allocation_bytes": status.target.allocation_bytes + step * GiB})
        now = recommendation.model_copy(update={"status": status.model_copy(update={"target": grown})})
        made.append(ensure_claim(store, now, of))
        of = dataclasses.replace(of, previous=with_consequences(now, of, MARKET, made[-1]))
    assert len(set(made)) == 3
    # A pod may have been admitted with the last but one, and its claim not been made yet.
    assert claims(store) == sorted(name or "" for name in made[1:])


@pytest.mark.parametrize(
    "of",
    [
        of_dra(ON),
        of_dra(dataclasses.replace(DRA, enabled=False)),
        of_dra(dataclasses.replace(DRA, dry_run=True)),
        of_dra(gpus=0),
    ],
)
def test_no_template_where_nobody_would_point_at_it(tmp_path: Path, of: WorkloadState) -> None:
    store = FileObjectStore(tmp_path)
    assert ensure_claim(store, stored(of), of) is None
    assert not claims(store)


def test_a_store_that_takes_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FileObjectStore):
        def apply(self, obj: dict[str, Any]) -> bool:  # noqa: ARG002, it is an ObjectStore's
            raise OSError("no space left")

    of = of_dra()
    assert ensure_claim(Refusing(tmp_path), stored(of), of) is None
    assert "its pods hold whole GPUs: no space left" in caplog.text
