"""Autoscalers on a real API server: our examples are valid, and those that a smaller pool misleads are pointed out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import SyntheticEngine, served

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT, folder_with
from recommender.api.apiserver.connection import ApiServer
from recommender.api.workloads import WorkloadRef
from recommender.cluster_objects import ClusterObjects
from recommender.telemetry import Telemetry

from .recommenders import (
    RecommenderProcess,
    condition,
    found,
    install,
    kubeconfig,
    measured_pod,
    opted_in,
    path_of,
    recommending,
    run,
    told,
)

Raw = dict[str, Any]

EXAMPLES = ROOT / "deploy" / "examples"
HPAS = "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers"
SCALED_OBJECTS = "/apis/keda.sh/v1alpha1/namespaces/{}/scaledobjects"
KEDA = "keda.sh_scaledobjects.yaml"
LLAMA = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "llama"}
USAGE = "vllm:kv_cache_usage_perc"
MEMORY = "DCGM_FI_DEV_FB_USED_PERCENT"


def accepted(plane: ControlPlane, path: str, example: Path) -> Raw:
    """What the API server would store of the one object in the file, every field of which it knows."""
    [document] = documents(example)
    document["metadata"]["namespace"] = path.split("/")[-2]
    made = plane.client.create(path, document, dryRun="All", fieldValidation="Strict")
    assert plane.client.warnings == []
    for field, value in document["spec"].items():
        assert made["spec"][field] == value or field == "behavior", field
    return made


def test_the_example_for_kubernetes_alone(crds: ControlPlane) -> None:
    made = accepted(crds, HPAS.format(crds.namespace("example-hpa")), EXAMPLES / "autoscaling-hpa.yaml")
    assert made["spec"]["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 1800


@pytest.fixture(scope="module")
def recommender(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecommenderProcess]:
    with recommending(crds, tmp_path_factory.mktemp("recommender"), "scaled") as made:
        yield made


def figure(recommender: RecommenderProcess, name: str, **labels: str) -> float | None:
    """The value of the one series of that name with these labels."""
    for line in recommender.answer("/metrics").splitlines():
        wanted = (f'{label}="{value}"' in line for label, value in labels.items())
        if line.startswith(f"vllm_rightsizer_workload_{name}{{") and all(wanted):
            return float(line.rpartition(" ")[2])
    return None


def test_one_that_goes_by_the_usage_or_by_gpu_memory_is_pointed_out(
    crds: ControlPlane, recommender: RecommenderProcess
) -> None:
    """In a condition, an Event and a metric, for as long as it does."""
    # Nobody is to make pods, or remove ours.
    crds.stop_controller_manager()
    namespace, client = opted_in(crds, "autoscaled", "scaled"), crds.client

    def conflicts(reason: str) -> float | None:
        return figure(recommender, "autoscaler_conflicts", namespace=namespace, reason=reason)

    template = {"metadata": {"labels": {"a": "llama"}}, "spec": {"containers": [{"name": "vllm", "image": "i"}]}}
    spec = {"replicas": 1, "selector": {"matchLabels": {"a": "llama"}}, "template": template}
    owner = client.apply(
        {
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": {"name": "llama", "namespace": namespace},
            "spec": spec,
        }
    )
    path = path_of(namespace, WorkloadRef("apps", "StatefulSet", "llama"))
    engine = SyntheticEngine(demand_blocks=1024)
    with served(lambda: engine.page().encode()) as port:
        pod = measured_pod(port, "llama-0")
        pod["metadata"]["ownerReferences"] = [{**LLAMA, "uid": owner["metadata"]["uid"], "controller": True}]
        client.create(f"/api/v1/namespaces/{namespace}/pods", pod)
        run(crds, namespace, "llama-0")
        crds.wait_for(lambda: figure(recommender, "kv_demand_ratio", namespace=namespace) == 0.25, "ratio")
        assert condition(found(crds, path), "AutoscalerConflict") == {}

        target = {"type": "AverageValue", "averageValue": "800m"}
        metric: Raw = {"type": "Pods", "pods": {"metric": {"name": USAGE}, "target": target}}
        autoscaler: Raw = {"metadata": {"name": "busy"}, "spec": {"scaleTargetRef": LLAMA, "maxReplicas": 4}}
        autoscaler["spec"]["metrics"] = [metric]
        client.create(HPAS.format(namespace), autoscaler)
        crds.wait_for(lambda: condition(found(crds, path), "AutoscalerConflict"), "condition")
        said = condition(found(crds, path), "AutoscalerConflict")
        assert (said["status"], said["reason"]) == ("True", "ScaledByPoolUsage")
        assert f"HorizontalPodAutoscaler busy by {USAGE}" in said["message"]
        assert told(crds, namespace, path.rpartition("/")[2], "ScaledByPoolUsage")["type"] == "Warning"
        crds.wait_for(lambda: conflicts("ScaledByPoolUsage") == 1, "count")

        metric["pods"]["metric"]["name"] = MEMORY
        client.patch(f"{HPAS.format(namespace)}/busy", {"spec": {"metrics": [metric]}})
        crds.wait_for(
            lambda: condition(found(crds, path), "AutoscalerConflict").get("reason") == "ScaledByGPUMemory",
            "other reason",
        )
        crds.wait_for(lambda: conflicts("ScaledByGPUMemory") == 1, "count")
        assert conflicts("ScaledByPoolUsage") is None
        said = condition(found(crds, path), "AutoscalerConflict")
        assert f"HorizontalPodAutoscaler busy by {MEMORY}. A smaller KV cache lowers" in said["message"]
        assert told(crds, namespace, path.rpartition("/")[2], "ScaledByGPUMemory")["type"] == "Warning"

        metric["pods"]["metric"]["name"] = "vllm:num_requests_waiting"
        client.patch(f"{HPAS.format(namespace)}/busy", {"spec": {"metrics": [metric]}})
        crds.wait_for(lambda: not condition(found(crds, path), "AutoscalerConflict"), "end of it")
        crds.wait_for(lambda: conflicts("ScaledByGPUMemory") is None, "end of it")
        client.delete(f"/api/v1/namespaces/{namespace}/pods/llama-0", gracePeriodSeconds="0")
        crds.wait_for(lambda: figure(recommender, "kv_demand_ratio", namespace=namespace) is None, "end of the ratio")


@pytest.mark.e2e
async def test_scaled_objects(crds: ControlPlane, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """By KEDA's own definition; followed with the rights that are shipped."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        definition = folder_with(KEDA) / KEDA
    crds.define(*documents(definition))
    namespace = crds.namespace("scaled-objects")
    scaled_objects = SCALED_OBJECTS.format(namespace)
    made = accepted(crds, scaled_objects, EXAMPLES / "autoscaling-keda.yaml")
    queries = {"harmless": "sum(vllm:num_requests_waiting)", "busy": f"max({USAGE})", "full": f"avg({MEMORY})"}
    for name, query in queries.items():
        made["metadata"] = {"name": name}
        made["spec"]["triggers"][0]["metadata"]["query"] = query
        crds.client.create(scaled_objects, made)
    install(crds)
    server = await ApiServer.connect(kubeconfig(crds, tmp_path))
    objects = ClusterObjects(server, Telemetry())

    def kept() -> list[str]:
        raws = objects.list("ScaledObject", namespace)
        return [raw["metadata"]["name"] for raw in raws]

    try:
        async with objects.following(), asyncio.timeout(180):
            while not objects.synced or kept() != ["busy", "full"]:
                await asyncio.sleep(0.05)
            for name in kept():
                crds.client.delete(f"{scaled_objects}/{name}")
            while kept():
                await asyncio.sleep(0.05)
    finally:
        await server.close()
