"""`doctor` on a whole cluster: nothing is found where a real vLLM is measured, and each injected fault comes first."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.vllm_pods import IMAGE, vllm_pod
from vllm_plugin.names import ANNOTATION_CONTAINER, LABEL_INJECT

from .lab_cluster import NAMESPACE, Installed, is_ready, wait_for

TEAM = "team-doctor"
LATE = "team-doctor-late"
START_SECONDS = 400.0
READY_REPLICAS = {"webhook": 2, "recommender": 1}


def examined(kubectl: Kubectl, *options: str) -> tuple[int, list[Raw]]:
    """The exit code, and the findings."""
    command = [sys.executable, "-m", "vllm_rightsizer", "doctor", "--output=json", *options]
    done = subprocess.run(command, env=kubectl.environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found: list[Raw] = json.loads(done.stdout)["findings"]
    return done.returncode, found


def first(kubectl: Kubectl) -> Raw:
    code, found = examined(kubectl)
    assert code == 1
    return found[0]


def pod(name: str, namespace: str, spec: Raw) -> Raw:
    # Whatever its command line seems to be.
    settled = {ANNOTATION_CONTAINER: "vllm"}
    metadata = {"name": name, "namespace": namespace, "labels": {"app": name}, "annotations": settled}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def idle(*env: Raw) -> Raw:
    """In place of vLLM, for what is not about it: it starts at once."""
    command = [sys.executable, "-c", "import time; time.sleep(3600)"]
    mounts = {"usr": Path("/usr"), "python": Path(sys.base_prefix), "venv": Path(sys.prefix)}
    mounts = {name: path for name, path in mounts.items() if name == "usr" or not path.is_relative_to("/usr")}
    container = {
        "name": "vllm",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": command,
        "env": list(env),
        "volumeMounts": [{"name": name, "mountPath": str(path), "readOnly": True} for name, path in mounts.items()],
    }
    volumes = [{"name": name, "hostPath": {"path": str(path)}} for name, path in mounts.items()]
    return {"containers": [container], "volumes": volumes, "terminationGracePeriodSeconds": 1}


@pytest.fixture(scope="module")
def kubectl_of_team(installed: Installed) -> Iterator[Kubectl]:
    """A namespace that has opted in, with a real vLLM that is measured."""
    kubectl = installed.kubectl
    kubectl.namespace(TEAM, {LABEL_INJECT: "enabled"})
    mine = f"--namespace={TEAM}"
    wait_for(lambda: kubectl.items(mine, "configmaps", "-l", "app.kubernetes.io/managed-by"), "plugin")
    sizes = ("--gpu-memory-utilization=0.3", "--max-model-len=2048")
    kubectl.apply(pod("measured", TEAM, vllm_pod(kubectl.scratch / "model", *sizes)))
    wait_for(lambda: is_ready(kubectl.get(mine, "pod", "measured")), "vLLM", START_SECONDS)
    wait_for(lambda: _reports(kubectl), "its first measurement")
    yield kubectl
    for name in (TEAM, LATE):
        kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")


def _reports(kubectl: Kubectl) -> bool:
    said: list[Any] = [
        condition
        for found in kubectl.items(f"--namespace={TEAM}", "vllmrec")
        for condition in (found.get("status") or {}).get("conditions", ())
    ]
    return any(one["type"] == "PluginReporting" and one["status"] == "True" for one in said)


def test_nothing_is_found_where_all_is_well(kubectl_of_team: Kubectl, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    assert examined(kubectl_of_team, f"--bundle={file}") == (0, [])
    listed = subprocess.run(["tar", "-xzOf", str(file)], capture_output=True, text=True, check=True).stdout
    # The webhook's own log, which the kubelet gives.
    assert "the caBundle of vllm-rightsizer is written" in listed


@pytest.mark.parametrize(
    ("component", "finding"), [("webhook", "WebhookNotRunning"), ("recommender", "RecommenderNotRunning")]
)
def test_a_server_that_is_scaled_to_nothing(kubectl_of_team: Kubectl, component: str, finding: str) -> None:
    kubectl, ours = kubectl_of_team, f"--namespace={NAMESPACE}"
    name = f"deployment/vllm-rightsizer-{component}"
    of_component = f"--selector=app.kubernetes.io/component={component}"
    kubectl("scale", ours, name, "--replicas=0")
    try:
        wait_for(lambda: not kubectl.items(ours, "pods", of_component), f"no {component}")
        found = first(kubectl)
        assert found["name"] == finding
        # The fix is run as it stands there.
        assert found["fix"] == f"kubectl -n {NAMESPACE} scale {name} --replicas={READY_REPLICAS[component]}"
    finally:
        kubectl("scale", ours, name, f"--replicas={READY_REPLICAS[component]}")
    _wait_until_well(kubectl)


def test_a_pod_older_than_the_opt_in(kubectl_of_team: Kubectl) -> None:
    kubectl = kubectl_of_team
    kubectl.namespace(LATE)
    kubectl.apply(pod("older", LATE, idle()))
    wait_for(lambda: kubectl.get(f"--namespace={LATE}", "pod", "older")["status"]["phase"] == "Running", "older pod")
    kubectl("label", "namespace", LATE, f"{LABEL_INJECT}=enabled")
    mine = f"--namespace={LATE}"
    wait_for(lambda: kubectl.items(mine, "configmaps", "-l", "app.kubernetes.io/managed-by"), "plugin")
    found = first(kubectl)
    assert found["name"] == "PodNotAdmitted"
    assert found["about"] == f"Pod {LATE}/older"
    assert "older than the opt-in" in found["seen"]
    kubectl("delete", "pod", mine, "older")
    _wait_until_well(kubectl)


@pytest.mark.parametrize(
    ("env", "finding", "seen"),
    [
        # The webhook leaves it alone, and says why.
        (
            {"name": "PYTHONPATH", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            "PluginRefused",
            "PYTHONPATH",
        ),
        # It gets the plugin, which nothing ever loads.
        ({"name": "NOTHING", "value": "here"}, "PluginSilent", "nothing answers on port"),
    ],
    ids=["refused", "silent"],
)
def test_a_pod_that_cannot_be_measured(kubectl_of_team: Kubectl, env: Raw, finding: str, seen: str) -> None:
    kubectl, mine = kubectl_of_team, f"--namespace={TEAM}"
    kubectl.apply(pod("odd", TEAM, idle(env)))
    try:
        wait_for(lambda: is_ready(kubectl.get(mine, "pod", "odd")), "pod")
        found = first(kubectl)
        assert found["name"] == finding
        assert found["about"] == f"Pod {TEAM}/odd"
        assert seen in found["seen"]
    finally:
        kubectl("delete", "pod", mine, "odd")
    _wait_until_well(kubectl)


def _wait_until_well(kubectl: Kubectl) -> None:
    wait_for(lambda: examined(kubectl) == (0, []), "an installation without findings")
