"""Pods as the controllers of Kubernetes make them from workloads, and as other operators are known to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import Webhook
from recommender.api.workloads import WorkloadRef
from vllm_plugin.names import ANNOTATION_EXCLUDE

from .pods import (
    AUTOMATED,
    FLAGS,
    OPTED_IN,
    Raw,
    args_of,
    injected,
    owned,
    recommend,
    template,
    tried,
    vllm_pod,
)

APPS = "apps/v1"
BATCH = "batch/v1"


def _selected(pod: Raw, name: str, **more: Any) -> Raw:
    labels = {"app": name}
    return {"selector": {"matchLabels": labels}, "template": template(pod, **labels)} | more


def _once(pod: Raw) -> Raw:
    made = template(pod)
    made["spec"]["restartPolicy"] = "Never"
    return {"template": made}


Spec = Callable[[Raw, str], Raw]
WORKLOADS: dict[str, tuple[str, Spec]] = {
    "Deployment": (APPS, lambda pod, name: _selected(pod, name, replicas=1)),
    "ReplicaSet": (APPS, lambda pod, name: _selected(pod, name, replicas=1)),
    "StatefulSet": (APPS, lambda pod, name: _selected(pod, name, replicas=1, serviceName=name)),
    "DaemonSet": (APPS, lambda pod, name: _selected(pod, name)),
    "Job": (BATCH, lambda pod, _name: _once(pod)),
    "CronJob": (
        BATCH,
        lambda pod, _name: {"schedule": "0 0 1 1 *", "suspend": True, "jobTemplate": {"spec": _once(pod)}},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def controllers_run(webhook: Webhook) -> Iterator[None]:
    """Workloads make pods, on a node that never runs them."""
    webhook.plane.start_controller_manager()
    node = {"metadata": {"name": "gpu-1", "labels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}}
    webhook.plane.client.create("/api/v1/nodes", node)
    # A node that has not been heard of is tainted, and no DaemonSet goes there.
    webhook.plane.client.patch("/api/v1/nodes/gpu-1", {"spec": {"taints": None}})
    yield
    webhook.plane.client.delete("/api/v1/nodes/gpu-1")
    webhook.plane.stop_controller_manager()


def _make(plane: ControlPlane, namespace: str, kind: str, pod: Raw, **metadata: Any) -> Raw:
    version, spec = WORKLOADS[kind]
    workload = {"metadata": {"name": "llama"} | metadata, "spec": spec(pod, "llama")}
    return plane.client.create(f"/apis/{version}/namespaces/{namespace}/{kind.lower()}s", workload)


def _pod_of(plane: ControlPlane, namespace: str) -> Raw:
    """The pod that a controller makes there."""
    found: list[Raw] = []

    def made() -> bool:
        found[:] = plane.client.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
        return bool(found)

    plane.wait_for(made, f"pod in {namespace}")
    return found[0]


def _overdue(plane: ControlPlane, path: str) -> None:
    """A CronJob that missed its last time runs at once, and then not before the next New Year."""
    plane.client.patch(f"{path}/status", {"status": {"lastScheduleTime": "2025-06-01T12:00:00Z"}})
    plane.client.patch(path, {"spec": {"suspend": False}})


@pytest.mark.parametrize("kind", WORKLOADS)
def test_pods_of(webhook: Webhook, kind: str) -> None:
    """What is recommended for a workload reaches the pod that its controller makes."""
    plane = webhook.plane
    namespace = plane.namespace(f"kind-{kind.lower()}", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    group = WORKLOADS[kind][0].partition("/")[0]
    recommend(webhook.plane, namespace, WorkloadRef(group, kind, "llama"), pod)
    _make(plane, namespace, kind, pod)
    path = f"/apis/{WORKLOADS[kind][0]}/namespaces/{namespace}/{kind.lower()}s/llama"
    if kind == "CronJob":
        _overdue(plane, path)
    made = _pod_of(plane, namespace)
    assert injected(made)
    assert args_of(made) == [*args_of(pod), *FLAGS]
    # No workload was changed for it.
    spec = plane.client.get(path)["spec"]
    assert args_of(spec.get("jobTemplate", {"spec": spec})["spec"]["template"]) == args_of(pod)


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "Job"])
def test_an_excluded_workload_without_a_recommendation(webhook: Webhook, kind: str) -> None:
    """The annotation stands on the workload, not on its pods: the webhook has to know the workload."""
    plane = webhook.plane
    namespace = plane.namespace(f"excluded-{kind.lower()}", OPTED_IN)
    pod = vllm_pod()
    stopped = {"suspend": True} if kind == "Job" else {"replicas": 0}
    version, spec = WORKLOADS[kind]
    workload = {
        "metadata": {"name": "llama", "annotations": {ANNOTATION_EXCLUDE: "true"}},
        "spec": spec(pod, "llama") | stopped,
    }
    plane.client.create(f"/apis/{version}/namespaces/{namespace}/{kind.lower()}s", workload)
    probe = owned(pod, WorkloadRef(version.partition("/")[0], kind, "llama"))
    plane.wait_for(lambda: not injected(tried(plane, namespace, probe)), "exclusion")
    going = {"suspend": False} if kind == "Job" else {"replicas": 1}
    plane.client.patch(f"/apis/{version}/namespaces/{namespace}/{kind.lower()}s/llama", {"spec": going})
    made = _pod_of(plane, namespace)
    assert not injected(made)
    assert args_of(made) == args_of(pod)


LWS = "leaderworkerset.sigs.k8s.io"
OPERATORS: dict[str, tuple[WorkloadRef, Raw, str, str]] = {
    # Its workload, labels and annotations, the kind and the name of the owner: as their controllers write them.
    "leader-of-a-leaderworkerset": (
        WorkloadRef("leaderworkerset.x-k8s.io", "LeaderWorkerSet", "llama"),
        {
            "labels": {
                f"{LWS}/name": "llama",
                f"{LWS}/group-index": "0",
                f"{LWS}/group-key": "5b5f8c2a4d2d0e0a3b1c8d7e6f5a4b3c2d1e0f9a",
                f"{LWS}/template-revision-hash": "6b7f9c8d5",
                f"{LWS}/worker-index": "0",
            },
            "annotations": {f"{LWS}/size": "2"},
        },
        "StatefulSet",
        "llama",
    ),
    "worker-of-a-leaderworkerset": (
        WorkloadRef("leaderworkerset.x-k8s.io", "LeaderWorkerSet", "llama"),
        {
            "labels": {
                f"{LWS}/name": "llama",
                f"{LWS}/group-index": "0",
                f"{LWS}/group-key": "5b5f8c2a4d2d0e0a3b1c8d7e6f5a4b3c2d1e0f9a",
                f"{LWS}/template-revision-hash": "6b7f9c8d5",
                f"{LWS}/worker-index": "1",
            },
            "annotations": {f"{LWS}/size": "2", f"{LWS}/leader-name": "llama-0"},
        },
        "StatefulSet",
        "llama-0",
    ),
    "predictor-of-kserve": (
        WorkloadRef("serving.kserve.io", "InferenceService", "llama"),
        {
            "labels": {
                "app": "isvc.llama-predictor",
                "component": "predictor",
                "pod-template-hash": "6d4f9b7c5",
                "serving.kserve.io/inferenceservice": "llama",
            },
            "annotations": {"serving.kserve.io/deploymentMode": "Standard"},
        },
        "ReplicaSet",
        "llama-predictor-6d4f9b7c5",
    ),
    "worker-of-kserve": (
        WorkloadRef("serving.kserve.io", "InferenceService", "llama"),
        {
            "labels": {
                "app": "isvc.llama-predictor-worker",
                "component": "predictor",
                "isvc.generation": "1",
                "pod-template-hash": "7c6b5d4f9",
                "serving.kserve.io/inferenceservice": "llama",
            },
        },
        "ReplicaSet",
        "llama-predictor-worker-7c6b5d4f9",
    ),
    "pod-of-an-argo-rollout": (
        WorkloadRef("argoproj.io", "Rollout", "llama"),
        {"labels": {"app": "llama", "rollouts-pod-template-hash": "7d9c8f6b5"}},
        "ReplicaSet",
        "llama-7d9c8f6b5",
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_pods_as_other_operators_make_them(webhook: Webhook, name: str) -> None:
    plane = webhook.plane
    workload, metadata, kind, owner = OPERATORS[name]
    namespace = plane.namespace(name, OPTED_IN)
    reference = {"apiVersion": "apps/v1", "kind": kind, "name": owner, "controller": True, "blockOwnerDeletion": True}
    owners = [reference | {"uid": "0b9a5f5e-3f6c-4a63-9b43-1f5b3f0b8d11"}]
    annotations = metadata.get("annotations", {}) | AUTOMATED
    labels = metadata["labels"]
    pod = vllm_pod(None, generateName=f"{owner}-", labels=labels, annotations=annotations, ownerReferences=owners)
    recommend(webhook.plane, namespace, workload, pod)
    made = plane.client.create(f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")
    assert injected(made)
    assert args_of(made) == [*args_of(pod), *FLAGS]


def test_a_new_image_starts_as_its_author_wrote_it(webhook: Webhook) -> None:
    """A rollout reaches admission before the recommender has seen the new pod."""
    plane = webhook.plane
    namespace = plane.namespace("rollout", OPTED_IN)
    pod = vllm_pod(annotations=AUTOMATED)
    recommend(webhook.plane, namespace, WorkloadRef("apps", "Deployment", "llama"), pod)
    newer = copy.deepcopy(pod)
    newer["spec"]["containers"][0]["image"] = "vllm/vllm-openai:v0.12.0"
    _make(plane, namespace, "Deployment", newer)
    made = _pod_of(plane, namespace)
    assert injected(made)
    assert args_of(made) == args_of(pod)
