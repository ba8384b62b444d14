"""Every command of docs/install.md, in its order, by Helm and kubectl on a real API server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.control_plane import ControlPlane
from bench.lab.programs import ROOT, folder_with

from .releases import JobKubelet

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "install.md"
NEEDS_NODES = "rollout status"
"""Here no pod ever runs: there is no node."""
CLUSTER_WIDE = (
    "rbac.authorization.k8s.io/v1/clusterroles",
    "rbac.authorization.k8s.io/v1/clusterrolebindings",
    "admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
    "apiextensions.k8s.io/v1/customresourcedefinitions",
)


@pytest.fixture
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """With all controllers, since volumes go only by theirs, the Deployment of an example, and Jobs that run."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm", "kubectl", "etcd", "kube-apiserver", "kube-controller-manager")
    made = ControlPlane(tmp_path_factory.mktemp("page"), controllers=("*",))
    kubelet = JobKubelet(made, tmp_path_factory.mktemp("jobs"))
    try:
        made.start_controller_manager()
        made.namespace("chat")
        made.client.apply_files(ROOT / "deploy" / "examples" / "llama-3-8b.yaml")
        kubelet.start()
        yield made
        kubelet.stop()
    finally:
        made.stop()


def _blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def test_the_page(plane: ControlPlane, tmp_path: Path) -> None:
    environment = os.environ | {
        "PATH": f"{folder_with('helm', 'kubectl')}:{os.environ['PATH']}",
        "KUBECONFIG": str(plane.kubeconfig),
        "HOME": str(tmp_path),
    }
    blocks = _blocks()
    assert any("helm install" in block for block in blocks)
    for block in blocks:
        commands = "".join(line for line in block.splitlines(keepends=True) if NEEDS_NODES not in line)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        if "delete namespace" in commands:
            plane.wait_for(lambda: not plane.exists("/api/v1/namespaces/vllm-rightsizer"), "end of the namespace")
            assert _left(plane) == []
    assert all(name.endswith(".vllm-rightsizer.io") for name in _left(plane)), "of definitions nothing was said"


def _left(plane: ControlPlane) -> list[str]:
    """What is ours of that which is in no namespace."""
    found = [item for path in CLUSTER_WIDE for item in plane.client.get(f"/apis/{path}")["items"]]
    return [name for item in found if "vllm-rightsizer" in (name := str(item["metadata"]["name"]))]
