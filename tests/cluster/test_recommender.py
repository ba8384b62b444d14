"""The recommender on a real API server: it meets every pod, takes none for another, and says what it finds."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from synthetic import SyntheticEngine, served

from bench.lab.control_plane import ControlPlane
from recommender.api.plugin_wheel import plugin_map_name
from recommender.api.workloads import WorkloadRef
from vllm_plugin import names

from .pods import OPTED_IN, vllm_pod
from .recommenders import (
    NAMESPACE,
    RecommenderProcess,
    condition,
    deployed,
    found,
    measured_pod,
    opted_in,
    path_of,
    put_policy,
    recommending,
    run,
    told,
)

LLAMA = WorkloadRef("apps", "Deployment", "llama")
MANAGER = "vllm-rightsizer-recommender"
PATIENT = {"observationWindow": "192s", "windowCoverage": 0.6, "minRequests": 100}
"""Its window outlasts an API server's end and start: what was counted before still counts afterwards."""


@pytest.fixture(scope="module")
def recommender(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RecommenderProcess]:
    with recommending(crds, tmp_path_factory.mktemp("recommender"), "hasty") as made:
        yield made


def requests_of(plane: ControlPlane, path: str) -> int:
    return int(((found(plane, path).get("status") or {}).get("measured") or {}).get("requests", -1))


def test_from_a_deployment_to_its_recommendation(controllers: ControlPlane, recommender: RecommenderProcess) -> None:
    """Also across a restart of the API server, and with what a person says on the object in between."""
    plane, client = controllers, controllers.client
    put_policy(plane, "patient", **PATIENT)
    namespace = opted_in(plane, "from-deployment", "patient")
    path = path_of(namespace, LLAMA)
    engine = SyntheticEngine(demand_blocks=300, active_blocks=200)
    draw = random.Random(1)
    with served(lambda: engine.page().encode()) as port:
        deployed(plane, namespace, measured_pod(port))
        plane.wait_for(lambda: requests_of(plane, path) == 0, "first measurement")
        made = client.get(path)
        deployment = client.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/llama")
        [owner] = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Deployment", deployment["metadata"]["uid"])
        assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {MANAGER}
        assert {entry["operation"] for entry in made["metadata"]["managedFields"]} == {"Apply"}
        plugin = f"/api/v1/namespaces/{namespace}/configmaps/{plugin_map_name()}"
        plane.wait_for(lambda: found(plane, plugin).get("immutable"), "ConfigMap of the plugin")

        client.patch(path, {"spec": {"paused": True}})
        for _ in range(6):
            engine.look_up([draw.randrange(1200) for _ in range(800)] + [None] * 200, requests=50)
        plane.wait_for(lambda: condition(found(plane, path), "Recommended").get("status") == "True", "size")
        assert client.get(path)["spec"]["paused"] is True
        event = told(plane, namespace, made["metadata"]["name"], "Recommended")
        assert (event["type"], event["reportingComponent"]) == ("Normal", "vllm-rightsizer.io/recommender")
        assert event["involvedObject"]["uid"] == made["metadata"]["uid"]
        assert "KV cache" in event["message"]

        assert (made["status"]["replicas"], made["status"]["gpus"]) == (1, 1)
        client.patch(f"/apis/apps/v1/namespaces/{namespace}/deployments/llama", {"spec": {"replicas": 2}})
        plane.wait_for(lambda: found(plane, path)["status"]["replicas"] == 2, "second pod in the status")

        [listed] = answered(recommender, f"workloads?namespace={namespace}")["workloads"]
        assert (listed["name"], listed["paused"]) == ("llama", True)
        assert listed["target"]["kvBytes"] > 0
        explained = answered(recommender, f"namespaces/{namespace}/workloads/llama")
        assert "Recommended" in {change["reason"] for change in explained["changes"]}
        assert explained["intervals"]
        assert answered(recommender, "plan").keys() == {"stocks", "leftOut"}

        plane.stop_api_server()
        try:
            engine.look_up([1, 2], requests=30)
            plane.wait_for(lambda: "pods: " in recommender.answer("/readyz"), "trouble")
            assert recommender.answer("/healthz") == "ok"
        finally:
            plane.start_api_server()
        engine.look_up([1, 2], requests=12)
        plane.wait_for(lambda: requests_of(plane, path) == 342, "what came meanwhile")
        plane.wait_for(lambda: recommender.answer("/readyz") == "ok", "readiness")
    client.delete(f"/apis/{names.API_VERSION}/vllmpolicies/patient")


def answered(recommender: RecommenderProcess, question: str) -> Any:
    return json.loads(recommender.answer(f"/api/v1/{question}"))


@pytest.mark.usefixtures("recommender")
def test_a_pod_that_lies(crds: ControlPlane) -> None:
    """Its page carries the namespace, the workload and the pod of others: what it says counts for itself alone."""
    victim, liar = opted_in(crds, "victim", "hasty"), opted_in(crds, "liar", "hasty")
    honest, lying = SyntheticEngine(), SyntheticEngine(blocks=1024)
    spoofed = f'{{namespace="{victim}",pod="llama",workload="llama",container="vllm",engine="0"'
    bare = WorkloadRef("", "Pod", "llama")
    with (
        served(lambda: honest.page().encode()) as port,
        served(lambda: lying.page().replace('{engine="0"', spoofed).encode()) as other,
    ):
        for namespace, at in ((victim, port), (liar, other)):
            crds.client.create(f"/api/v1/namespaces/{namespace}/pods", measured_pod(at))
            run(crds, namespace, "llama")
            path = path_of(namespace, bare)
            crds.wait_for(lambda path=path: requests_of(crds, path) == 0, "measurement")
        honest.look_up([1, 2], requests=5)
        lying.look_up([1, 2], requests=7000)
        crds.wait_for(lambda: requests_of(crds, path_of(liar, bare)) == 7000, "the lie")
        crds.wait_for(lambda: requests_of(crds, path_of(victim, bare)) == 5, "the truth")
        assert found(crds, path_of(victim, bare))["status"]["measured"]["kvCapacityBytes"] == 4096 * honest.block_bytes
        # And one that passes itself off as the other pod itself.
        uid = crds.client.get(f"/api/v1/namespaces/{victim}/pods/llama")["metadata"]["uid"]
        spoofed_uid = f'{{version="0.1.0",pod_uid="{uid}"}}'
        honest_page = honest.page
        lying.page = lambda: honest_page().replace('{version="0.1.0"}', spoofed_uid)  # type: ignore[method-assign]  # it lies
        crds.wait_for(
            lambda: "another pod" in condition(found(crds, path_of(liar, bare)), "PluginReporting").get("message", ""),
            "refusal",
        )


@pytest.mark.usefixtures("recommender")
def test_two_engines_in_a_pod(crds: ControlPlane) -> None:
    """Each has a port, and a recommendation, of its own."""
    namespace = opted_in(crds, "two-engines", "hasty")
    workload = WorkloadRef("", "Pod", "two")
    first, second = SyntheticEngine(), SyntheticEngine(blocks=1024)
    with served(lambda: first.page().encode()) as port, served(lambda: second.page().encode()) as other:
        pod = measured_pod(port, "two")
        [container] = pod["spec"]["containers"]
        draft = {**container, "name": "draft", "env": [{"name": names.ENV_PORT, "value": str(other)}]}
        pod["spec"]["containers"].append(draft)
        crds.client.create(f"/api/v1/namespaces/{namespace}/pods", pod)
        run(crds, namespace, "two")
        for name, engine in (("vllm", first), ("draft", second)):
            path = path_of(namespace, workload, name)
            crds.wait_for(lambda path=path: requests_of(crds, path) == 0, f"measurement of {name}")
            capacity = crds.client.get(path)["status"]["measured"]["kvCapacityBytes"]
            assert capacity == engine.blocks * engine.block_bytes


def test_vllm_without_our_plugin(crds: ControlPlane, recommender: RecommenderProcess) -> None:
    """It was there before its namespace opted in."""
    namespace = crds.namespace("without-plugin")
    pod = vllm_pod("refused", annotations={names.ANNOTATION_SKIPPED: "no plugin: the quota leaves no room"})
    crds.client.create(f"/api/v1/namespaces/{namespace}/pods", pod)
    run(crds, namespace, "refused")
    crds.client.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": OPTED_IN}})
    path = path_of(namespace, WorkloadRef("", "Pod", "refused"))
    crds.wait_for(
        lambda: condition(found(crds, path), "PluginReporting").get("reason") == "PluginMissing",
        "condition",
    )
    assert "the quota leaves no room" in condition(found(crds, path), "PluginReporting")["message"]
    assert told(crds, namespace, path.rpartition("/")[2], "PluginMissing")["type"] == "Warning"
    start = f'vllm_rightsizer_recommender_pods_without_plugin{{namespace="{namespace}",reason="Refused"}}'
    assert recommender.metric(start) == 1


def test_pods_beside_our_servers(crds: ControlPlane, recommender: RecommenderProcess) -> None:
    """The webhook is never asked about them, whatever the label says: nobody waits for their plugin."""
    elsewhere = crds.namespace("beside-none-of-ours")
    pod = vllm_pod("bare", annotations={names.ANNOTATION_SKIPPED: "no plugin: the quota leaves no room"})
    # Other pods are refused there.
    pod["spec"]["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    [container] = pod["spec"]["containers"]
    container["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    own = f"/api/v1/namespaces/{NAMESPACE}"
    try:
        for namespace, account in ((NAMESPACE, MANAGER), (elsewhere, "default")):
            pod["spec"]["serviceAccountName"] = account
            crds.client.create(f"/api/v1/namespaces/{namespace}/pods", pod)
            run(crds, namespace, "bare")
            crds.client.patch(f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": OPTED_IN}})
        metric = "vllm_rightsizer_recommender_pods_without_plugin{namespace="
        crds.wait_for(lambda: recommender.metric(f'{metric}"{elsewhere}"') == 1, "metric")
        assert recommender.metric(f'{metric}"{NAMESPACE}"') == 0
    finally:
        crds.client.patch(own, {"metadata": {"labels": dict.fromkeys(OPTED_IN)}})
        crds.client.delete(f"{own}/pods/bare", gracePeriodSeconds="0")


@pytest.mark.usefixtures("recommender")
def test_a_policy_that_cannot_be_followed(crds: ControlPlane) -> None:
    """One that was stored before the API server knew what is valid: said on it, and its last valid version goes on."""
    policy = f"/apis/{names.API_VERSION}/vllmpolicies/mistaken"
    put_policy(crds, "mistaken", observationWindow="24s")
    crds.wait_for(lambda: condition(found(crds, policy), "Valid").get("status") == "True", "condition")
    overwrite(crds, "vllmpolicies/mistaken", b'"24s"', b'"two days"')
    crds.wait_for(lambda: condition(found(crds, policy), "Valid").get("status") == "False", "condition")
    stands = crds.client.get(policy)
    assert stands["spec"]["observationWindow"] == "two days"
    said = condition(stands, "Valid")
    assert said["reason"] == "LastValidGoesOn"
    assert "'two days' is no duration" in said["message"]
    assert said["observedGeneration"] == stands["metadata"]["generation"]
    assert told(crds, "default", "mistaken", "LastValidGoesOn")["type"] == "Warning"
    crds.client.delete(policy)


@pytest.mark.usefixtures("recommender")
def test_automation_that_cannot_be_followed(crds: ControlPlane) -> None:
    """Of another release, or from before the API server knew what is valid: what it said before goes on."""
    automation = f"/apis/{names.API_VERSION}/automatednamespaces/mistaken-automation"
    opted_in(crds, "mistaken-automation", "hasty")
    crds.wait_for(lambda: condition(found(crds, automation), "Valid").get("status") == "True", "condition")
    overwrite(crds, "automatednamespaces/mistaken-automation", b'"vllmOptimize":true', b'"vllmOptimize":"often"')
    crds.wait_for(lambda: condition(found(crds, automation), "Valid").get("status") == "False", "condition")
    stands = crds.client.get(automation)
    assert stands["spec"] == {"vllmOptimize": "often", "defaultVllmPolicy": "hasty"}
    said = condition(stands, "Valid")
    assert said["reason"] == "LastValidGoesOn"
    assert "spec.vllmOptimize" in said["message"]
    assert told(crds, "default", "mistaken-automation", "LastValidGoesOn")["type"] == "Warning"
    crds.client.delete(automation)


def overwrite(plane: ControlPlane, of_ours: str, before: bytes, after: bytes) -> None:
    """Change what is stored of an object of ours, behind the API server's back."""
    etcd = f"http://127.0.0.1:{plane._etcd_port}/v3/kv"
    key = base64.b64encode(f"/registry/{names.GROUP}/{of_ours}".encode()).decode()
    [stored] = httpx.post(f"{etcd}/range", json={"key": key}).json()["kvs"]
    text = base64.b64decode(stored["value"])
    assert before in text
    value = base64.b64encode(text.replace(before, after)).decode()
    httpx.post(f"{etcd}/put", json={"key": key, "value": value}).raise_for_status()
