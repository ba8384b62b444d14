"""Where the chart's pods may be and run: on nodes whose network they use, and in a namespace with a quota."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import Helm
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import folder_with, start
from bench.lab.webhook import NAMESPACE
from vllm_rightsizer.demo.ports import free_ports

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
ROOM = {"cpu": "8", "memory": "16Gi", "pods": "100"}
LIMITED: Raw = {"resources": {"limits": {"cpu": "500m"}}}


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With controllers, which make pods, and the scheduler, which gives them nodes; no kubelet runs them."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
    folder: Path = tmp_path_factory.mktemp("pods")
    with running(folder) as made:
        made.start_controller_manager()
        name = "system:kube-scheduler"
        [port] = free_ports(1)
        config = made.kubeconfig_of(name, made.user(name))
        scheduler = start(
            folder_with("kube-scheduler") / "kube-scheduler",
            [f"--kubeconfig={config}", "--leader-elect=false", "--bind-address=127.0.0.1", f"--secure-port={port}"],
            folder,
        )
        try:
            made.namespace(NAMESPACE)
            yield made
        finally:
            scheduler.stop()


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return Helm(tmp_path_factory.mktemp("helm"))


def _rendered(helm: Helm, values: Raw) -> dict[tuple[str, str], Raw]:
    """By kind and component."""
    found = [one for one in YAML(typ="safe", pure=True).load_all(StringIO(helm.render(values))) if one]
    label = "app.kubernetes.io/component"
    return {(one["kind"], one["metadata"]["labels"].get(label, "")): one for one in found}


def _node(plane: ControlPlane, name: str) -> None:
    """One that is ready, as far as the API server knows."""
    plane.client.create("/api/v1/nodes", {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}})
    # The API server takes a new one for not ready.
    plane.client.patch(f"/api/v1/nodes/{name}", {"spec": {"taints": None}})
    ready = [{"type": "Ready", "status": "True", "reason": "Test", "message": ""}]
    plane.client.patch(
        f"/api/v1/nodes/{name}/status", {"status": {"capacity": ROOM, "allocatable": ROOM, "conditions": ready}}
    )


def test_two_replicas_never_want_one_port_of_a_node(plane: ControlPlane, helm: Helm) -> None:
    """On the hosts' network the third of three waits where there are two nodes."""
    for name in ("first", "second"):
        _node(plane, name)
    made = _rendered(helm, {"webhook": {"hostNetwork": True, "replicas": 3}})
    plane.client.apply(made["ServiceAccount", "webhook"])
    plane.client.apply(made["Deployment", "webhook"])

    def pods() -> list[Raw]:
        return list(plane.client.get(PODS, labelSelector="app.kubernetes.io/component=webhook")["items"])

    def refused() -> list[str]:
        conditions = [one for pod in pods() for one in pod["status"].get("conditions") or ()]
        return [str(one["message"]) for one in conditions if (one["type"], one["status"]) == ("PodScheduled", "False")]

    plane.wait_for(lambda: len(pods()) == 3 and refused(), "pod that waits for a node")
    plane.wait_for(lambda: sum("nodeName" in pod["spec"] for pod in pods()) == 2, "nodes of the others")
    assert sorted(pod["spec"]["nodeName"] for pod in pods() if "nodeName" in pod["spec"]) == ["first", "second"]
    [said] = refused()
    assert "2 node(s) didn't have free ports for the requested pod ports" in said


def test_a_quota_of_limits(plane: ControlPlane, helm: Helm) -> None:
    """Of CPU, which no pod of ours has by itself: with limits each of them is admitted, those that end as well."""
    path = f"/api/v1/namespaces/{NAMESPACE}/resourcequotas"
    plane.client.create(path, {"metadata": {"name": "most"}, "spec": {"hard": {"limits.cpu": "16"}}})
    plane.wait_for(lambda: "used" in plane.client.get(f"{path}/most").get("status", {}), "figures of the quota")
    values = dict.fromkeys(("webhook", "recommender", "crds"), LIMITED)
    for component in values:
        plane.client.apply(_rendered(helm, {})["ServiceAccount", component])

    def answer(values: Raw, kind: str, component: str) -> str:
        made = _rendered(helm, values)[kind, component]
        template = made if kind == "Pod" else made["spec"]["template"]
        pod = {"metadata": {"generateName": f"{component}-"}, "spec": template["spec"]}
        return str(plane.client.http.post(PODS, json=pod, params={"dryRun": "All"}).json().get("message", "admitted"))

    plane.wait_for(lambda: "failed quota" in answer({}, "Job", "crds"), "quota")
    for kind, component in (("Job", "crds"), ("Pod", "test"), ("Deployment", "webhook"), ("Deployment", "recommender")):
        assert "failed quota: most: must specify limits.cpu" in answer({}, kind, component)
        assert answer(values, kind, component) == "admitted"
