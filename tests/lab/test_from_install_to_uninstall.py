"""Whom the webhook leaves alone, what happens without it, and how all of it goes again: as the pages say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT
from bench.lab.vllm_pods import vllm_pod
from vllm_plugin.names import ANNOTATION_EXCLUDE, LABEL_INJECT, LABEL_INJECTED

from .lab_cluster import (
    NAMESPACE,
    RELEASE,
    SIZES,
    WEBHOOK,
    Installed,
    first_pod,
    is_untouched,
    labels,
    our_pods,
    ready_pods,
    restarted,
    tried,
    wait_for,
    workload,
)
from .pages import Page

IN, OUT, AFTER = "team-in", "team-out", "team-after"
OPTED_IN = {LABEL_INJECT: "enabled"}
NOWHERE = {"nodeSelector": {"nowhere": "true"}}
"""Pods are looked at as they are admitted: none of them has to start."""
WEBHOOKS = 2


@pytest.fixture(scope="module")
def spec(kubectl: Kubectl) -> Raw:
    """Of a pod with vLLM."""
    return vllm_pod(kubectl.scratch / "model", *SIZES) | NOWHERE


@pytest.fixture(scope="module")
def teams(installed: Installed, spec: Raw) -> Iterator[Kubectl]:
    """Two namespaces, one of which has opted in."""
    kubectl = installed.kubectl
    kubectl.namespace(OUT)
    kubectl.namespace(IN, OPTED_IN)
    # The webhook learns a little later than we that the plugin is there, and the API server where the webhook is.
    wait_for(lambda: LABEL_INJECTED in labels(tried(kubectl, IN, spec)), "the plugin")
    yield kubectl
    for name in (IN, OUT, AFTER):
        kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")


def test_who_is_left_alone(teams: Kubectl, spec: Raw) -> None:
    plain = {"containers": [{"name": "web", "image": "nginx"}], **NOWHERE}
    teams.apply(
        workload("Deployment", OUT, "opted-out", spec),
        workload("Deployment", IN, "excluded", spec, {ANNOTATION_EXCLUDE: "true"}),
        workload("Deployment", IN, "web", plain),
        workload("Deployment", IN, "plain", spec),
        workload("StatefulSet", IN, "stateful", spec),
    )
    assert is_untouched(first_pod(teams, OUT, "opted-out"))
    assert LABEL_INJECTED not in labels(first_pod(teams, IN, "excluded"))
    assert is_untouched(first_pod(teams, IN, "web"))
    # The same pods, without the reason for which those are left alone.
    for name in ("plain", "stateful"):
        assert labels(first_pod(teams, IN, name))[LABEL_INJECTED] == "true"
        assert not is_untouched(first_pod(teams, IN, name))


def test_a_killed_webhook_comes_back_and_blocks_nothing(teams: Kubectl, spec: Raw) -> None:
    killed = {pod["metadata"]["uid"] for pod in ready_pods(teams, WEBHOOK, WEBHOOKS)}
    ours = f"--namespace={NAMESPACE}"
    teams("delete", "pod", ours, "-l", WEBHOOK, "--grace-period=0", "--force", "--wait=false")
    teams.apply(workload("Deployment", IN, "meanwhile", spec))
    assert first_pod(teams, IN, "meanwhile")
    ready_pods(teams, WEBHOOK, WEBHOOKS, but=killed)
    _expect_the_plugin(teams, "meanwhile", spec)


def test_without_webhook_pods_start_unmodified(teams: Kubectl, spec: Raw) -> None:
    ours = f"--namespace={NAMESPACE}"
    teams("scale", ours, "deployment", "-l", WEBHOOK, "--replicas=0")
    wait_for(lambda: not our_pods(teams, WEBHOOK), "no webhook")
    teams.apply(workload("Deployment", IN, "late", spec))
    assert is_untouched(first_pod(teams, IN, "late"))
    teams("scale", ours, "deployment", "-l", WEBHOOK, f"--replicas={WEBHOOKS}")
    ready_pods(teams, WEBHOOK, WEBHOOKS)
    _expect_the_plugin(teams, "late", spec)


def _expect_the_plugin(kubectl: Kubectl, app: str, spec: Raw) -> None:
    """In the next pod, once the API server has learned where ready webhooks are, a little later than we."""
    wait_for(lambda: all(LABEL_INJECTED in labels(tried(kubectl, IN, spec)) for _ in range(5)), "every webhook")
    kubectl("delete", "pod", f"--namespace={IN}", f"--selector=app={app}")
    assert LABEL_INJECTED in labels(first_pod(kubectl, IN, app))


def test_away_with_it(kubectl: Kubectl, real: Raw, quick_start: Page) -> None:
    assert real
    assert not is_untouched(restarted(kubectl))
    quick_start.run("Away with it")
    assert is_untouched(restarted(kubectl))
    assert quick_start.not_run == []


def test_upgrade_and_rollback_keep_the_webhook(kubectl: Kubectl, installed: Installed, install_page: Page) -> None:
    assert installed.began
    ca_bundle = _ca_bundle(kubectl)
    assert ca_bundle
    for number in range(3):
        install_page.run("Upgrade", number)
        assert _ca_bundle(kubectl) == ca_bundle


def test_uninstall_leaves_nothing(teams: Kubectl, install_page: Page, spec: Raw) -> None:
    kubectl = teams
    install_page.run("Uninstall")
    assert not kubectl.items("mutatingwebhookconfigurations")
    assert _definitions(kubectl), "of the definitions only what follows says so"
    kubectl.namespace(AFTER, OPTED_IN)
    kubectl.apply(workload("Deployment", AFTER, "after", spec))
    assert is_untouched(first_pod(kubectl, AFTER, "after"))
    install_page.run("Uninstall", 1)
    assert not _definitions(kubectl)
    for kind in ("namespaces", "clusterroles", "clusterrolebindings", "configmaps"):
        left = [found["metadata"]["name"] for found in kubectl.items("-A", kind)]
        assert not [name for name in left if RELEASE in name], kind


def test_without_helm(installed: Installed, install_page: Page) -> None:
    """On a cluster from which the release has gone."""
    kubectl = installed.kubectl
    kubectl.run(*installed.uninstall_command, "--ignore-not-found")
    install_page.run("Without Helm")
    for component in ("webhook", "recommender"):
        name = f"deployment/vllm-rightsizer-{component}"
        kubectl("rollout", "status", f"--namespace={NAMESPACE}", name, "--timeout=10m")
    assert "MutatingWebhookConfiguration" in install_page.run("Without Helm", 1)
    install_page.run("Without Helm", 2)
    assert not kubectl.items("mutatingwebhookconfigurations")
    assert NAMESPACE not in {found["metadata"]["name"] for found in kubectl.items("namespaces")}


@pytest.fixture(scope="module")
def install_page(kubectl: Kubectl) -> Page:
    return Page(kubectl, "docs/install.md")


def _ca_bundle(kubectl: Kubectl) -> str:
    [found] = kubectl.items("mutatingwebhookconfigurations")
    return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


def _definitions(kubectl: Kubectl) -> list[str]:
    shipped = {path.stem for path in Path(ROOT, "deploy", "crds").glob("*.yaml")}
    there = (found["metadata"]["name"] for found in kubectl.items("customresourcedefinitions"))
    return [name for name in there if name.partition(".")[0] in shipped]
