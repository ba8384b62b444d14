"""A whole cluster with real pods, and the chart in it as a user installs it.

All tests share one cluster and one installation, which they take through its life as the quick start does: each fixture
below is a step of that page, and takes the steps before it. So any test runs alone, and all of them take each step
once. `ORDER` is the order of the steps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.lab.base_images import missing_for_images
from bench.lab.client import Raw
from bench.lab.cluster import running
from bench.lab.kubectl import Kubectl
from bench.lab.leftovers import left, traces
from bench.lab.node import missing_for_a_node, the_only_node
from bench.lab.programs import folder_with
from bench.lab.vllm_pods import vllm_pod

from .lab_cluster import (
    CHAT,
    FIGURES,
    LATER,
    NAME,
    PATIENCE_SECONDS,
    QUICK_START,
    REQUESTS,
    SIZES,
    Installed,
    Measured,
    condition,
    first_pod,
    load,
    ready_pod,
    status_of,
    wait_for,
    workload,
)
from .pages import Page

HERE = Path(__file__).parent
ORDER = (
    "test_quick_start",
    # While the five minutes pass that a preliminary size takes.
    "test_doctor",
    "test_quick_start_sizes",
    "test_commands_on_lab",
    "test_from_install_to_uninstall",
)
SHORT = {"observationWindow": "20m", "windowCoverage": 5, "minRequests": 300, "verify": {"settle": "1m"}}
"""Of the policy `default`, in place of the two days of its window, which take a day to be half full."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [place for place, item in enumerate(items) if HERE in item.path.parents]
    ordered = sorted((items[place] for place in mine), key=lambda item: _step(item.path.stem))
    for place, item in zip(mine, ordered, strict=True):
        item.add_marker(pytest.mark.e2e)
        # What is waited for says so itself, at the end of its own time; the first test of a step waits for all of it.
        item.add_marker(pytest.mark.timeout(5400))
        items[place] = item


def _step(module: str) -> int:
    """By the longest name that the module's begins with; a module without a place comes last."""
    fitting = [name for name in ORDER if module.startswith(name)]
    return ORDER.index(max(fitting, key=len)) if fitting else len(ORDER)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Of a process beside others the figures go to the one that shows them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["figures"] = FIGURES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    FIGURES.extend(getattr(node, "workeroutput", {}).get("figures", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if FIGURES:
        terminalreporter.section("seen on the lab")
        for figure in FIGURES:
            terminalreporter.write_line(figure)


@pytest.fixture(scope="session")
def kubectl(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """A cluster by its kubectl: the one that KUBECONFIG names, or one of our own on this machine.

    CONTRIBUTING.md says what the former must offer; one of `make lab-up` does.
    """
    scratch = tmp_path_factory.mktemp("lab")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        # The first time it takes minutes, and says so.
        given = os.environ.get("KUBECONFIG")
        lacking = None if given else missing_for_a_node() or missing_for_images()
        if lacking is not None:
            pytest.skip(f"no pod runs here, so nothing of a whole cluster is tested: {lacking}")
        programs = folder_with("kubectl", "helm")
        if not given:
            folder_with("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
    if given:
        yield Kubectl(programs, Path(given).resolve(), scratch)
        return
    with the_only_node():
        # What one has left that was killed is gone now: it is not how the machine was.
        before = traces(scratch)
    began = time.monotonic()
    with running(scratch / "cluster") as cluster:
        FIGURES.append(f"a cluster with one ready node: {time.monotonic() - began:.0f} s")
        cluster.load_images()
        FIGURES.append(f"the same with our images: {time.monotonic() - began:.0f} s")
        yield Kubectl(programs, cluster.plane.kubeconfig, scratch)
        ended = time.monotonic()
    FIGURES.append(f"end of the cluster: {time.monotonic() - ended:.0f} s")
    assert left(scratch, before) == set(), "of a cluster nothing is left"


@pytest.fixture(scope="session")
def quick_start(kubectl: Kubectl) -> Page:
    return Page(kubectl, QUICK_START)


@pytest.fixture(scope="session")
def served(kubectl: Kubectl) -> Iterator[str]:
    """What somebody runs before anything of ours is there: a Deployment of real vLLM, with one pod; the pod's uid."""
    kubectl.namespace(CHAT)
    kubectl.apply(workload("Deployment", CHAT, NAME, vllm_pod(kubectl.scratch / "model", *SIZES)))
    yield first_pod(kubectl, CHAT, NAME)["metadata"]["uid"]
    kubectl("delete", "namespace", CHAT)


@pytest.fixture(scope="session")
def installed(kubectl: Kubectl, quick_start: Page) -> Iterator[Installed]:
    """The chart, by step 1."""
    made = Installed(kubectl, quick_start)
    try:
        made.install()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="session")
def measured(kubectl: Kubectl, served: str, installed: Installed, quick_start: Page) -> Measured:
    assert quick_start.run("2. Say").strip(), "the ConfigMap's name"
    before = first_pod(kubectl, CHAT, NAME)
    assert before["metadata"]["uid"] == served
    assert NAME in quick_start.run("2. Say", 1)
    shown = quick_start.run("3. The first")
    FIGURES.append(f"helm install to the first measurements: {time.time() - installed.began:.0f} s")
    return Measured(before, ready_pod(kubectl), shown)


@pytest.fixture(scope="session")
def preliminary(measured: Measured, quick_start: Page) -> float:
    """A policy that looks at ten minutes; when it was asked for, by `time.monotonic`."""
    assert measured
    began = time.monotonic()
    quick_start.run("4. A preliminary")
    return began


@pytest.fixture(scope="session")
def sized(kubectl: Kubectl, preliminary: float, quick_start: Page) -> str:
    """Step 4 to its end, with the traffic that it asks for; what it shows."""
    load(ready_pod(kubectl), REQUESTS, seed=1)
    wait_for(lambda: status_of(kubectl).get("target"), "a preliminary size", 900.0)
    FIGURES.append(f"policy `preliminary` to its size, other tests meanwhile: {time.monotonic() - preliminary:.0f} s")
    return quick_start.run("4. A preliminary", 1)


@pytest.fixture(scope="session")
def real(kubectl: Kubectl, sized: str, quick_start: Page) -> Raw:
    """Step 5, whose wait takes a day with the policy that it has: the policy's times are made short while the page's
    command waits. Then `LATER` requests are sent, since of those before only ten minutes are kept, and a slow machine
    takes them. What stood there before that."""
    assert sized
    quick_start.run("5. The real")
    held = wait_for(lambda: _of_policy(kubectl, "default"), "the policy `default`")
    with quick_start.running("5. The real", 1) as command:
        kubectl("patch", "vllmpolicy", "default", "--type=merge", f"--patch={json.dumps({'spec': SHORT})}")
        load(ready_pod(kubectl), LATER, seed=2)
        printed, _ = command.communicate(timeout=PATIENCE_SECONDS)
    print(printed)
    assert command.returncode == 0, printed
    assert condition(status_of(kubectl), "CoverageSufficient") == "True"
    return held


def _of_policy(kubectl: Kubectl, policy: str) -> Raw | None:
    status = status_of(kubectl)
    return status if status.get("policy", {}).get("value") == policy else None
