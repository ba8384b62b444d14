"""Our custom resources, judged by a real API server: what it refuses, what it fills in, what it gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.lab.client import StatusError
from bench.lab.control_plane import ControlPlane
from recommender.api.objects import ApiObject, ObjectMeta
from recommender.api.policies import (
    AutomatedNamespace,
    AutomatedNamespaceSpec,
    ClusterAutomation,
    ClusterAutomationSpec,
    PolicySpec,
    VLLMPolicy,
)
from recommender.api.recommendations import VLLMRecommendation
from recommender.api.units import parse_duration, parse_quantity
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import API_VERSION

from .pods import recommendation, vllm_pod

ROOT = f"/apis/{API_VERSION}"
WORKLOAD = WorkloadRef("apps", "Deployment", "llama")
TARGET = {"group": "apps", "kind": "Deployment", "name": "llama", "container": "vllm"}


@pytest.fixture
def made(crds: ControlPlane) -> Iterator[list[str]]:
    """Paths of cluster-wide objects that a test made; they are removed after it."""
    paths: list[str] = []
    yield paths
    for path in paths:
        crds.client.delete(path)


@pytest.mark.parametrize(
    ("kind", "name", "spec", "complaint"),
    [
        (VLLMPolicy, "p", {"observationWindow": "two days"}, "spec.observationWindow"),
        (VLLMPolicy, "p", {"observationWindow": "0h"}, "must be longer than nothing"),
        (VLLMPolicy, "p", {"verify": {"settle": "0m0s"}}, "must be longer than nothing"),
        (VLLMPolicy, "p", {"percentile": 98}, 'supported values: "100", "99", "95", "90", "85", "80"'),
        (VLLMPolicy, "p", {"windowCoverage": 0}, "spec.windowCoverage"),
        (VLLMPolicy, "p", {"windowCoverage": 101}, "spec.windowCoverage"),
        (VLLMPolicy, "p", {"hitRateLoss": {"points": -1}}, "spec.hitRateLoss.points"),
        (VLLMPolicy, "p", {"demandMarginPercent": -1}, "spec.demandMarginPercent"),
        (VLLMPolicy, "p", {"minKV": "4 GiB"}, "spec.minKV"),
        (VLLMPolicy, "p", {"minKV": -1}, "must not be negative"),
        (VLLMPolicy, "p", {"minKV": "8Gi", "maxKV": "8191Mi"}, "minKV must not be larger than maxKV"),
        (VLLMPolicy, "p", {"minKV": 2, "maxKV": 1}, "minKV must not be larger than maxKV"),
        (VLLMPolicy, "p", {"minRequests": 0}, "spec.minRequests"),
        (VLLMPolicy, "p", {"mode": "Never"}, 'supported values: "Apply", "DryRun"'),
        (VLLMPolicy, "p", {"strategy": "Always"}, 'supported values: "OnCreate", "Ongoing"'),
        (VLLMPolicy, "p", {"caution": "Low"}, 'supported values: "Normal", "High"'),
        (VLLMPolicy, "p", {"restart": {"maxPerDay": 1.5}}, "spec.restart.maxPerDay"),
        (VLLMPolicy, "p", {"percentil": 95}, 'unknown field "spec.percentil"'),
        (ClusterAutomation, "other", {}, "there is one ClusterAutomation, named default"),
        (ClusterAutomation, "default", {"emitter": "mig"}, "spec.emitter"),
        (AutomatedNamespace, "team.a", {}, "is named as the namespace"),
        (AutomatedNamespace, "a" * 64, {}, "is named as the namespace"),
        (AutomatedNamespace, "chat", {"vllmOptimize": "yes"}, "spec.vllmOptimize"),
        (VLLMRecommendation, "r", {}, "spec.targetRef"),
        (VLLMRecommendation, "r", {"targetRef": {**TARGET, "container": None}}, "spec.targetRef.container"),
    ],
)
def test_refused(crds: ControlPlane, kind: type[ApiObject], name: str, spec: dict[str, Any], complaint: str) -> None:
    with pytest.raises(StatusError) as refused:
        crds.client.create(_collection(kind), _object(kind, name, spec), fieldValidation="Strict", dryRun="All")
    assert refused.value.code in (400, 422)
    assert complaint in refused.value.message


def test_a_recommendation_is_for_one_target_for_ever(crds: ControlPlane) -> None:
    recommendations = _collection(VLLMRecommendation, crds.namespace("one-target"))
    crds.client.create(recommendations, _object(VLLMRecommendation, "r", {"targetRef": TARGET}))
    with pytest.raises(StatusError, match="targetRef never changes"):
        crds.client.patch(f"{recommendations}/r", {"spec": {"targetRef": {"container": "other"}}})
    assert crds.client.patch(f"{recommendations}/r", {"spec": {"paused": True}})["spec"]["paused"] is True


def test_the_api_server_fills_in_the_defaults_of_our_types(crds: ControlPlane, made: list[str]) -> None:
    collection = _collection(VLLMPolicy)
    for name, written in (("without-spec", {}), ("empty", {"spec": {}}), ("part", {"spec": {"restart": {}}})):
        stored = crds.client.create(collection, _object(VLLMPolicy, name, None) | written)
        made.append(f"{collection}/{name}")
        assert stored["spec"] == PolicySpec().to_json()
        assert VLLMPolicy.from_json(stored).spec == PolicySpec()
    recommendation = _object(VLLMRecommendation, "r", {"targetRef": TARGET})
    stored = crds.client.create(_collection(VLLMRecommendation, "default"), recommendation, dryRun="All")
    assert stored["spec"]["paused"] is False


@pytest.mark.parametrize("quantity", ["512Mi", "1.5Gi", "4G", 4294967296])
def test_quantities_are_read_as_the_api_server_stores_them(crds: ControlPlane, quantity: str | int) -> None:
    stored = crds.client.create(
        _collection(VLLMPolicy), _object(VLLMPolicy, "p", {"maxKV": quantity}), dryRun="All", fieldValidation="Strict"
    )
    assert stored["spec"]["maxKV"] == quantity
    assert VLLMPolicy.from_json(stored).spec.max_kv_bytes == parse_quantity(quantity)


@pytest.mark.parametrize("duration", ["90s", "1h30m", "2d", "1w", "1.5h", "500ms"])
def test_durations_are_read_as_the_api_server_stores_them(crds: ControlPlane, duration: str) -> None:
    stored = crds.client.create(
        _collection(VLLMPolicy),
        _object(VLLMPolicy, "p", {"observationWindow": duration}),
        dryRun="All",
        fieldValidation="Strict",
    )
    assert VLLMPolicy.from_json(stored).spec.observation_window_seconds == parse_duration(duration)


@pytest.mark.parametrize(
    "written",
    [
        VLLMPolicy(
            metadata=ObjectMeta(name="full"),
            spec=PolicySpec(min_kv="2Gi", max_kv="16Gi", loss_budget=0.5, percentile=90, mode="DryRun", caution="High"),
        ),
        AutomatedNamespace(
            metadata=ObjectMeta(name="chat"),
            spec=AutomatedNamespaceSpec(vllm_optimize=True, default_vllm_policy="careful"),
        ),
        ClusterAutomation(
            metadata=ObjectMeta(name="default"),
            spec=ClusterAutomationSpec(vllm_optimize=False, default_vllm_policy="p", mode="Apply", emitter="kai"),
        ),
    ],
    ids=lambda obj: obj.kind,
)
def test_what_our_types_write_comes_back_as_it_was(crds: ControlPlane, made: list[str], written: ApiObject) -> None:
    collection = _collection(type(written))
    crds.client.create(collection, written.to_json(), fieldValidation="Strict")
    made.append(f"{collection}/{written.metadata.name}")
    back = type(written).from_json(crds.client.get(made[-1]))
    assert back.model_dump(exclude={"metadata"}) == written.model_dump(exclude={"metadata"})


def test_a_status_is_written_on_its_own(crds: ControlPlane) -> None:
    namespace = crds.namespace("statuses")
    full = recommendation(namespace, WORKLOAD, vllm_pod())
    path = f"{_collection(VLLMRecommendation, namespace)}/{full.metadata.name}"
    created = crds.client.create(_collection(VLLMRecommendation, namespace), full.to_json(), fieldValidation="Strict")
    assert "status" not in created
    crds.client.update(f"{path}/status", created | {"status": full.status.to_json()})
    back = VLLMRecommendation.from_json(crds.client.get(path))
    assert back.status == full.status
    assert back.spec == full.spec
    # Two writers may own a condition each.
    condition = full.status.conditions[0].to_json() | {"type": "Mine", "reason": "Checked"}
    status = {"apiVersion": API_VERSION, "kind": "VLLMRecommendation", "status": {"conditions": [condition]}}
    crds.client.patch(f"{path}/status", status, "apply", fieldManager="another")
    found = VLLMRecommendation.from_json(crds.client.get(path)).status.conditions
    assert [item.type for item in found] == ["Recommended", "Mine"]


def test_a_list_shows_what_matters(crds: ControlPlane) -> None:
    namespace = crds.namespace("listed")
    collection = _collection(VLLMRecommendation, namespace)
    full = recommendation(namespace, WORKLOAD, vllm_pod())
    created = crds.client.create(collection, full.to_json())
    crds.client.update(f"{collection}/{full.metadata.name}/status", created | {"status": full.status.to_json()})
    header = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"}
    table = crds.client.http.get(collection, headers=header).json()
    names = [column["name"] for column in table["columnDefinitions"]]
    [row] = table["rows"]
    shown = dict(zip(names, row["cells"], strict=True))
    assert shown["Workload"] == "llama"
    assert shown["KV bytes"] == 4 << 30
    assert shown["Saved bytes"] == 12 << 30
    assert (shown["Recommended"], shown["Degraded"]) == ("True", None)
    resources = {item["name"]: item for item in crds.client.get(ROOT)["resources"]}
    assert {name: item["shortNames"] for name, item in resources.items() if "/" not in name} == {
        "automatednamespaces": ["autons"],
        "clusterautomations": ["clauto"],
        "vllmpolicies": ["vllmpol"],
        "vllmrecommendations": ["vllmrec"],
    }


def test_fields_are_explained(crds: ControlPlane) -> None:
    """What `kubectl explain vllmpolicy.spec.percentile` prints comes from here."""
    found: dict[str, str] = {}
    path = f"/openapi/v3{ROOT}"

    def published() -> bool:
        if not crds.exists(path):
            return False
        schemas = crds.client.get(path)["components"]["schemas"]
        for schema in schemas.values():
            for kind in schema.get("x-kubernetes-group-version-kind", ()):
                if kind["kind"] == VLLMPolicy.KIND:
                    found["percentile"] = schema["properties"]["spec"]["properties"]["percentile"]["description"]
        return bool(found)

    crds.wait_for(published, "schema of a VLLMPolicy")
    assert found["percentile"].startswith("Which percentile of demand")


def _collection(kind: type[ApiObject], namespace: str = "default") -> str:
    return f"{ROOT}/namespaces/{namespace}/{kind.PLURAL}" if kind.NAMESPACED else f"{ROOT}/{kind.PLURAL}"


def _object(kind: type[ApiObject], name: str, spec: dict[str, Any] | None) -> dict[str, Any]:
    head = {"apiVersion": API_VERSION, "kind": kind.KIND, "metadata": {"name": name}}
    return head if spec is None else head | {"spec": spec}
