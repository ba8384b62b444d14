"""A real API server, one for all tests of the folder: each test makes namespaces of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import ROOT, folder_with
from bench.lab.webhook import Webhook, allow, install

from .pods import OPTED_IN, PATIENCE_SECONDS, injected, vllm_pod

HERE = Path(__file__).parent

# The table of launch forms and the synthetic engines are those of the unit tests.
for folder in ("webhook", "recommender"):
    sys.path.append(str(HERE.parent / "unit" / folder))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and run them last: meanwhile the programs that they need can be built."""
    ours = [item for item in items if HERE in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.cluster)
    items[:] = [*(item for item in items if HERE not in item.path.parents), *ours]


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """etcd and kube-apiserver; nothing that makes pods from workloads."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        # The first time it takes minutes, and says so.
        folder_with("etcd", "kube-apiserver")
    with running(tmp_path_factory.mktemp("control-plane")) as made:
        yield made


@pytest.fixture(scope="session")
def crds(control_plane: ControlPlane) -> ControlPlane:
    """The same, with our custom resources as they are shipped."""
    control_plane.install_crds(ROOT / "deploy" / "crds")
    return control_plane


@pytest.fixture(scope="session")
def webhook(crds: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    """Our webhook as it is shipped, called by the API server for opted-in namespaces, and waited for: on a busy machine
    two seconds may pass before it has its turn."""
    install(crds)
    allow(crds, PATIENCE_SECONDS)
    made = Webhook(crds, tmp_path_factory.mktemp("webhook"))
    try:
        made.start()
        probe = crds.namespace("probe", OPTED_IN)
        crds.wait_for(
            lambda: injected(crds.client.create(f"/api/v1/namespaces/{probe}/pods", vllm_pod(), dryRun="All")),
            "call of the webhook",
        )
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def controllers(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The same, with kube-controller-manager: Deployments, StatefulSets, Jobs and the like make their pods. Not for
    other modules: there nobody else is to make anything, or to remove it."""
    control_plane.start_controller_manager()
    yield control_plane
    control_plane.stop_controller_manager()
