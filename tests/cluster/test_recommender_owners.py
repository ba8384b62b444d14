"""Webhook and recommender, each by its own watches on one API server: every pod is of the same workload for both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.owner_groups import CustomOwnerGroup, OwnerKind
from recommender.api.policies import ClusterAutomationSpec
from recommender.cluster_objects import ClusterObjects
from recommender.discovery import discover
from recommender.telemetry import Telemetry
from vllm_plugin.names import ANNOTATION_EXCLUDE, API_VERSION
from webhook.cluster_watch import ClusterWatch

from .pods import OPTED_IN
from .recommenders import measured_pod
from .waiting import until

LWS = "leaderworkerset.sigs.k8s.io/name"
KSERVE = "serving.kserve.io/inferenceservice"
CUSTOM = {
    "Rollout": ("argoproj.io", "v1alpha1", "rollouts"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io", "v1", "leaderworkersets"),
    "InferenceService": ("serving.kserve.io", "v1beta1", "inferenceservices"),
}
GROUPS = [
    CustomOwnerGroup(name="servers", owner=OwnerKind(group="batch", kind="CronJob")),
    CustomOwnerGroup(name="teams", by_labels=["team"]),
]


@contextmanager
def custom_kinds(plane: ControlPlane) -> Iterator[None]:
    """The kinds of others, without their schemas."""
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    made = []
    for kind, (group, version, plural) in CUSTOM.items():
        names = {"plural": plural, "kind": kind, "singular": kind.lower(), "listKind": f"{kind}List"}
        versions = [{"name": version, "served": True, "storage": True, "schema": schema}]
        spec = {"group": group, "scope": "Namespaced", "names": names, "versions": versions}
        metadata = {"name": f"{plural}.{group}"}
        definition = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition"}
        made.append({**definition, "metadata": metadata, "spec": spec})
    plane.define(*made)
    try:
        yield
    finally:
        gone = [f"{definitions}/{plural}.{group}" for group, _, plural in CUSTOM.values()]
        for definition in gone:
            plane.client.delete(definition)
        # Whoever defines them next must not meet one that is on its way out.
        plane.wait_for(lambda: not any(map(plane.exists, gone)), "end of the kinds")


def make(plane: ControlPlane, kind: str, namespace: str, name: str, owner: dict[str, Any] | None, **more: Any) -> Any:
    """A workload of `kind` with an owner; what refers to it."""
    template = {"metadata": {"labels": {"a": name}}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
    once = {"template": {"spec": template["spec"] | {"restartPolicy": "Never"}}, "suspend": True}
    selecting = {"selector": {"matchLabels": {"a": name}}, "template": template}
    group, spec = {
        "Job": ("batch/v1", once),
        "CronJob": ("batch/v1", {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": once}}),
        "DaemonSet": ("apps/v1", selecting),
        **{kind: (f"{group}/{version}", {"replicas": 0}) for kind, (group, version, _) in CUSTOM.items()},
    }.get(kind, ("apps/v1", {**selecting, "replicas": 0}))
    metadata = {"name": name, "namespace": namespace, "ownerReferences": [owner] if owner else [], **more}
    made = plane.client.apply({"apiVersion": group, "kind": kind, "metadata": metadata, "spec": spec})
    return {"apiVersion": group, "kind": kind, "name": name, "uid": made["metadata"]["uid"], "controller": True}


async def test_every_pod_is_of_the_same_workload_for_both(crds: ControlPlane) -> None:
    with custom_kinds(crds):
        await _compare(crds)


async def _compare(crds: ControlPlane) -> None:
    # Nobody is to make pods, or remove ours.
    crds.stop_controller_manager()
    namespace, client = crds.namespace("same-workloads", OPTED_IN), crds.client

    def pod(name: str, owner: dict[str, Any] | None, **labels: str) -> None:
        raw = measured_pod(9415, name, **labels)
        raw["metadata"]["ownerReferences"] = [owner] if owner else []
        client.create(f"/api/v1/namespaces/{namespace}/pods", raw)

    deployment = make(crds, "Deployment", namespace, "llama", None)
    excluded = {"annotations": {ANNOTATION_EXCLUDE: "true"}}
    hashed = {"pod-template-hash": "5d"}
    pod("deployed", make(crds, "ReplicaSet", namespace, "llama-5d", deployment, labels=hashed), **hashed)
    pod("replicated", make(crds, "ReplicaSet", namespace, "bare", None))
    pod("stateful", make(crds, "StatefulSet", namespace, "stateful", None, **excluded))
    pod("daemon", make(crds, "DaemonSet", namespace, "daemon", None))
    nightly = make(crds, "CronJob", namespace, "nightly", None)
    pod("scheduled", make(crds, "Job", namespace, "nightly-29453760", nightly, **excluded))
    pod("once", make(crds, "Job", namespace, "once", nightly))
    pod("alone", None)
    rolled = {"rollouts-pod-template-hash": "7c"}
    rollout = make(crds, "Rollout", namespace, "rolling", None)
    pod("rolled", make(crds, "ReplicaSet", namespace, "rolling-7c", rollout, labels=rolled), **rolled)
    # Their pods name them by labels alone.
    make(crds, "LeaderWorkerSet", namespace, "big", None, **excluded)
    pod("grouped", None, **{LWS: "big"})
    make(crds, "InferenceService", namespace, "chat", None)
    pod("served", None, **{KSERVE: "chat"})
    pod("teamed", make(crds, "StatefulSet", namespace, "of-a-team", None), team="a")
    automation = ClusterAutomationSpec(custom_owner_groups=GROUPS).to_json()
    cluster = {"apiVersion": API_VERSION, "kind": "ClusterAutomation", "metadata": {"name": "default"}}
    server = await ApiServer.connect(crds.kubeconfig)
    watch, objects = ClusterWatch(server), ClusterObjects(server, Telemetry())
    try:
        async with watch.running(), objects.following():
            await until(lambda: watch.knowledge is not None and objects.synced)
            raws = client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
            for groups in ([], GROUPS):
                if groups:
                    client.apply({**cluster, "spec": automation})
                    await until(lambda: watch.knowledge is not None and watch.knowledge.cluster is not None)
                knowledge = watch.knowledge
                assert knowledge is not None
                census = objects.census()
                found = {one.name: one for one in discover(census, groups).injected if one.key.namespace == namespace}
                assert found.keys() == {raw["metadata"]["name"] for raw in raws}
                for raw in raws:
                    one = found[raw["metadata"]["name"]]
                    assert one.key.workload == knowledge.workload(namespace, raw)
                    assert one.excluded == knowledge.excluded(namespace, raw), one.name
                    assert one.uid == raw["metadata"]["uid"]
                assert {str(one.key.workload) for one in found.values()} == {
                    "Deployment/llama",
                    "ReplicaSet/bare",
                    "StatefulSet/stateful",
                    "DaemonSet/daemon",
                    "CronJob/nightly",
                    "Pod/alone",
                    "Rollout/rolling",
                    "LeaderWorkerSet/big",
                    "InferenceService/chat",
                    *(["OwnerGroup/teams.a"] if groups else ["StatefulSet/of-a-team", "Job/once"]),
                }
                assert {one.name for one in found.values() if one.excluded} == {"stateful", "scheduled", "grouped"}
    finally:
        await server.close()
        client.http.delete(f"/apis/{API_VERSION}/clusterautomations/default")
