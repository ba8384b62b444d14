"""Plans from the objects of a cluster: who holds what now, who could share, who is left out and why."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

from recommender.api.fingerprints import fingerprint
from recommender.api.object_store import FileObjectStore
from recommender.api.objects import ObjectMeta
from recommender.api.policies import ClusterAutomation, ClusterAutomationSpec
from recommender.api.recommendations import (
    RecommendationSpec,
    RecommendationStatus,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.workloads import OWNER_GROUP_KIND, WorkloadRef, recommendation_name, workload_of
from recommender.packing_plans import Plan, Stock, Worth, plan_of
from recommender.prices import PriceMap, Prices, Unpriced
from vllm_plugin.names import ANNOTATION_EMITTED, ANNOTATION_EXCLUDE, ENV_PORT, GROUP, LABEL_INJECT, LABEL_INJECTED

GiB = 1 << 30
H100 = "NVIDIA-H100-80GB-HBM3"
PRICES = Prices(PriceMap.model_validate({"date": "2026-11-01", "products": {H100: 2}}))
Raw = dict[str, Any]


class Cluster:
    """A store of objects with Nodes of eight H100 each."""

    def __init__(self, folder: Path, *nodes: str, emitter: str = "none", **labels: str) -> None:
        self.store = FileObjectStore(folder)
        for name in nodes:
            node = {"nvidia.com/gpu.product": H100, "nvidia.com/gpu.memory": "81559", "nvidia.com/gpu.count": "8"}
            self.store.apply({"kind": "Node", "metadata": {"name": name, "labels": {**node, **labels}}})
        automation = ClusterAutomationSpec.model_validate({"vllmOptimize": True, "emitter": emitter})
        self.store.apply(ClusterAutomation(metadata=ObjectMeta(name="default"), spec=automation).to_json())
        self.store.apply({"kind": "Namespace", "metadata": {"name": "chat", "labels": {LABEL_INJECT: "enabled"}}})

    def pod(self, name: str, node: str, gpus: int = 1, size: int | None = 20 * GiB, **metadata: Any) -> None:
        """A pod of its own that runs vLLM, with a recommendation where `size` is its allocation."""
        limits = {"nvidia.com/gpu": str(gpus)} if gpus else {}
        container = {
            "name": "vllm",
            "image": "vllm/vllm-openai:v0.11.0",
            "args": ["--model=m"],
            "env": [{"name": ENV_PORT, "value": "9415"}],
            "resources": {"limits": limits},
        }
        metadata = {"name": name, "namespace": "chat", **metadata}
        metadata["labels"] = {LABEL_INJECTED: "true", **metadata.get("labels", {})}
        raw: Raw = {
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"nodeName": node, "containers": [container]},
            "status": {"phase": "Running", "podIP": "10.0.0.1"},
        }
        self.store.apply(raw)
        if size is not None:
            self.store.apply(_recommendation(raw, size).to_json())

    def plan(self, prices: Prices = PRICES) -> Plan:
        return plan_of(self.store, prices)

    def stock(self) -> Stock:
        [stock] = self.plan().stocks
        return stock


def _recommendation(pod: Raw, allocation_bytes: int) -> VLLMRecommendation:
    workload = workload_of(pod)
    reference = TargetRef(group=workload.group, kind=workload.kind, name=workload.name, container="vllm")
    target = Target(
        kv_bytes=GiB,
        kv_blocks=512,
        allocation_bytes=allocation_bytes,
        gpu_memory_utilization="0.2500",
        flags=[],
        bound_by="hitRate",
    )
    return VLLMRecommendation(
        metadata=ObjectMeta(name=recommendation_name(workload, "vllm"), namespace="chat"),
        spec=RecommendationSpec(target_ref=reference),
        status=RecommendationStatus(fingerprint=fingerprint(pod, "vllm"), target=target),
    )


def test_without_an_emitter_all_is_potential(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    for index in range(6):
        cluster.pod(f"p{index}", "n1" if index < 3 else "n2")
    stock = cluster.stock()
    assert len(stock.now.used) == 6
    assert stock.bankable == stock.now
    # 20 GiB and what a rank holds beside its claim: three go onto a GPU of 79.6 GiB.
    assert len(stock.potential.used) == stock.least == 2
    assert stock.freed("potential") == 4
    assert stock.freed_nodes("potential") in (("n1",), ("n2",))
    assert stock.month("potential") == Worth(4 * 2 * 730, "USD", date(2026, 11, 1))
    assert stock.month("bankable") == Worth(0, "USD", date(2026, 11, 1))


def test_a_node_is_freed_by_an_idle_gpu_of_another(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", "n2")
    cluster.pod("a", "n1", size=60 * GiB)
    cluster.pod("b", "n2", size=60 * GiB)
    stock = cluster.stock()
    assert stock.freed("potential") == 0
    assert len(stock.freed_nodes("potential")) == 1


def test_with_an_emitter_it_is_bankable(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", emitter="hami")
    for index in range(3):
        cluster.pod(f"p{index}", "n1")
    stock = cluster.stock()
    assert len(stock.bankable.used) == 1
    assert stock.freed("bankable") == 2


def test_who_has_no_size_or_is_of_a_group_keeps_its_gpus(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", emitter="hami")
    cluster.pod("a", "n1")
    cluster.pod("b", "n1", size=None)
    group = {"labels": {"leaderworkerset.sigs.k8s.io/name": "g"}}
    cluster.pod("c", "n1", **group)
    stock = cluster.stock()
    assert len(stock.potential.used) == 3
    whole = {engine.pod for engine in stock.engines if engine.potential_bytes is None}
    assert whole == {"b", "c"}


def test_a_recommendation_for_other_arguments_says_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.pod("a", "n1")
    raw = cluster.store.list("VLLMRecommendation")[0]
    cluster.store.apply({**raw, "status": {**raw["status"], "fingerprint": "0" * 16}})
    assert cluster.stock().engines[0].potential_bytes is None


def test_shares_that_are_asked_for_lie_together_now(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    for index in range(2):
        emitted = json.dumps({"emitter": "hami", "bytes": 30 * GiB, "edits": []})
        cluster.pod(f"p{index}", "n1", annotations={ANNOTATION_EMITTED: emitted})
    stock = cluster.stock()
    assert len(stock.now.used) == 1
    assert stock.freed("potential") == 0


def test_a_record_that_asks_for_nothing_is_none(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    for index in range(2):
        emitted = json.dumps({"emitter": "hami", "bytes": -30 * GiB, "edits": []})
        cluster.pod(f"p{index}", "n1", size=None, annotations={ANNOTATION_EMITTED: emitted})
    assert len(cluster.stock().potential.used) == 2


def test_ranks_of_one_engine_lie_apart(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.pod("tp4", "n1", gpus=4, size=30 * GiB)
    cluster.pod("tp2", "n1", gpus=2, size=30 * GiB)
    stock = cluster.stock()
    assert len(stock.potential.used) == 4
    assert len(set(stock.potential.cards["chat/tp4/vllm"])) == 4
    # Ranks read one another's memory, which slices do not allow.
    assert all(engine.profile is None for engine in stock.engines)


def test_a_slice_is_advised(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.pod("a", "n1", size=17 * GiB)
    profile = cluster.stock().engines[0].profile
    assert profile is not None
    assert profile.name == "2g.20gb"


def test_others_keep_what_they_hold(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.store.apply(
        {
            "kind": "Pod",
            "metadata": {"name": "training", "namespace": "chat"},
            "spec": {
                "nodeName": "n1",
                "containers": [{"name": "t", "resources": {"limits": {"nvidia.com/gpu": "7"}}}],
            },
            "status": {"phase": "Running"},
        }
    )
    cluster.pod("a", "n1")
    cluster.pod("b", "n1")
    plan = cluster.plan()
    assert [len(stock.now.used) for stock in plan.stocks] == [1]
    assert "fewer GPUs than its pods ask for" in plan.left_out[0].reason


def test_who_is_in_no_plan(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.store.apply({"kind": "Node", "metadata": {"name": "bare"}})
    sliced = {"nvidia.com/gpu.product": f"{H100}-MIG-1g.10gb", "nvidia.com/gpu.memory": "9984"}
    labels = {**sliced, "nvidia.com/gpu.count": "7"}
    cluster.store.apply({"kind": "Node", "metadata": {"name": "sliced", "labels": labels}})
    for name, node, gpus in (("a", "bare", 1), ("b", "sliced", 1), ("c", "", 1), ("d", "n1", 0)):
        cluster.pod(name, node, gpus)
    plan = cluster.plan()
    assert plan.stocks == ()
    reasons = {one.name.split("/")[1]: one.reason for one in plan.left_out}
    assert "labels of node bare" in reasons["a"]
    assert "MIG has cut" in reasons["b"]
    assert "no node yet" in reasons["c"]
    assert "asks for no nvidia.com/gpu" in reasons["d"]


def test_no_money_where_a_price_is_missing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.pod("a", "n1")
    cluster.pod("b", "n1")
    [stock] = cluster.plan(Prices()).stocks
    month = stock.month("potential")
    assert isinstance(month, Unpriced)
    assert H100 in month.reason


def test_pods_of_a_group_of_the_users_own_have_its_size(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1")
    cluster.pod("a", "n1", labels={"model": "llama"})
    [raw] = cluster.store.list("Pod")
    groups = [{"name": "shared", "matchLabels": {"model": "llama"}}]
    spec = ClusterAutomationSpec.model_validate({"vllmOptimize": True, "customOwnerGroups": groups})
    cluster.store.apply(ClusterAutomation(metadata=ObjectMeta(name="default"), spec=spec).to_json())
    assert cluster.stock().engines[0].potential_bytes is None
    made = _recommendation(raw, 20 * GiB)
    group = WorkloadRef(GROUP, OWNER_GROUP_KIND, "shared")
    reference = made.spec.target_ref.model_copy(update={"group": group.group, "kind": group.kind, "name": group.name})
    update = {"spec": made.spec.model_copy(update={"target_ref": reference})}
    cluster.store.apply(made.model_copy(update=update).to_json())
    assert cluster.stock().engines[0].potential_bytes == 21 * GiB


def test_an_excluded_pod_banks_nothing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, "n1", emitter="hami")
    cluster.pod("a", "n1", annotations={ANNOTATION_EXCLUDE: "true"})
    engine = cluster.stock().engines[0]
    assert engine.bankable_bytes is None
    assert engine.potential_bytes is not None
