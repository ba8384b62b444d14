"""A whole cluster with real pods, and the chart in it as a user installs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.cluster import running
from bench.lab.kubectl import Kubectl
from bench.lab.node import missing_for_a_node
from bench.lab.programs import folder_with

from .lab_cluster import Installed

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """A cluster by its kubectl: the one that KUBECONFIG names, or one of our own on this machine.

    The former has the images of `Cluster.load_images`, as one of `make lab-up` has.
    """
    scratch = tmp_path_factory.mktemp("lab")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        # The first time it takes minutes, and says so.
        programs = folder_with("kubectl", "helm")
        if os.environ.get("KUBECONFIG"):
            yield Kubectl(programs, Path(os.environ["KUBECONFIG"]), scratch)
            return
        lacking = missing_for_a_node()
        if lacking is not None:
            pytest.skip(f"no pod runs here, so nothing of a whole cluster is tested: {lacking}")
        folder_with("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    with running(scratch / "cluster") as cluster:
        cluster.load_images()
        yield Kubectl(programs, cluster.plane.kubeconfig, scratch)


@pytest.fixture(scope="session")
def installed(kubectl: Kubectl) -> Iterator[Installed]:
    """The chart, with a policy whose window is minutes."""
    made = Installed(kubectl)
    made.install()
    try:
        yield made
    finally:
        subprocess.run(made.uninstall_command, env=kubectl.environment, check=False, capture_output=True)
