"""The admission controller of the VPA beside ours, with a VPA that matches the pods of one Deployment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from bench.lab.certificates import Authority
from bench.lab.client import Raw
from bench.lab.control_plane import ControlPlane
from bench.lab.programs import folder_with, start
from vllm_rightsizer.demo.ports import free_ports

_CONFIGURATION = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/vpa-webhook-config"


def prepare(plane: ControlPlane, namespace: str, deployment: str, replica_set: str, pod: Raw) -> None:
    """The kinds of the VPA; a Deployment without replicas and its ReplicaSet; and a VPA that speaks of it."""
    plane.client.apply_files(folder_with("vpa-admission-controller") / "vpa-v1-crd-gen.yaml")
    kinds = "/apis/autoscaling.k8s.io/v1/verticalpodautoscalers"
    plane.wait_for(lambda: plane.exists(kinds), "VerticalPodAutoscaler")
    labels = pod["metadata"]["labels"]
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "vllm", "image": "x"}]}},
    }
    apps = f"/apis/apps/v1/namespaces/{namespace}"
    made = plane.client.create(f"{apps}/deployments", {"metadata": {"name": deployment}, "spec": spec})
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment, "uid": made["metadata"]["uid"]}
    metadata = {"name": replica_set, "ownerReferences": [owner | {"controller": True}], "labels": labels}
    plane.client.create(f"{apps}/replicasets", {"metadata": metadata, "spec": spec})
    path = f"/apis/autoscaling.k8s.io/v1/namespaces/{namespace}/verticalpodautoscalers"
    vpa = {
        "apiVersion": "autoscaling.k8s.io/v1",
        "kind": "VerticalPodAutoscaler",
        "metadata": {"name": deployment},
        "spec": {
            "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment},
            "updatePolicy": {"updateMode": "Initial"},
        },
    }
    stored = plane.client.create(path, vpa)
    amounts = {"cpu": "6", "memory": "48Gi"}
    recommended = {"containerName": "vllm", "target": amounts, "lowerBound": amounts, "upperBound": amounts}
    status = {
        "recommendation": {"containerRecommendations": [recommended]},
        "conditions": [
            {"type": "RecommendationProvided", "status": "True", "lastTransitionTime": "2026-11-01T12:00:00Z"}
        ],
    }
    written = plane.client.update(f"{path}/{deployment}", stored | {"status": status})
    if "status" not in written:
        plane.client.update(f"{path}/{deployment}/status", written | {"status": status})


@contextlib.contextmanager
def running(plane: ControlPlane, folder: Path, namespace: str) -> Iterator[None]:
    """The admission controller, called for the pods of `namespace` only."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder / "pki")
    pair = authority.issue("vpa-webhook", hosts=("127.0.0.1",))
    port, metrics = free_ports(2)
    program = start(
        folder_with("vpa-admission-controller") / "vpa-admission-controller",
        [
            f"--kubeconfig={plane.kubeconfig}",
            "--register-by-url=true",
            "--webhook-address=https://127.0.0.1",
            f"--webhook-port={port}",
            f"--port={port}",
            f"--address=127.0.0.1:{metrics}",
            f"--client-ca-file={authority.files.certificate}",
            f"--tls-cert-file={pair.certificate}",
            f"--tls-private-key={pair.key}",
            "--v=1",
        ],
        folder,
        {"NAMESPACE": "kube-system"},
    )
    try:
        # It registers itself ten seconds after its start.
        plane.wait_for(lambda: plane.exists(_CONFIGURATION), "registration of the VPA's webhook", program)
        only = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
        patch = [{"op": "add", "path": "/webhooks/0/namespaceSelector", "value": only}]
        plane.client.patch(_CONFIGURATION, patch, "json")
        yield
    finally:
        program.stop()
