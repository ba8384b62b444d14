"""`doctor` on a whole cluster, and what people and other tools can say wrongly: policies, automation, git, monitors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.lab.client import Raw
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT, folder_with
from vllm_plugin.names import API_VERSION, LABEL_INJECT

from .doctor_lab import Fault, there, wait_until_well
from .lab_cluster import NAMESPACE, RELEASE, Installed, wait_for

TEAM = "team-doctor-settings"
FULL = "team-doctor-full"
AUTOMATION = "clusterautomation/default"
CONFIGURATION = "mutatingwebhookconfiguration/vllm-rightsizer"
MONITORING = ("monitoring.coreos.com_podmonitors.yaml", "monitoring.coreos.com_prometheuses.yaml")
"""The definitions that the Prometheus operator ships."""


@pytest.fixture(scope="module")
def team(installed: Installed) -> Iterator[Kubectl]:
    """A namespace has opted in, and has the plugin: there all is well."""
    kubectl = installed.kubectl
    kubectl.namespace(TEAM, {LABEL_INJECT: "enabled"})
    wait_until_well(kubectl)
    yield kubectl
    kubectl("delete", "namespace", TEAM)


def _merged(kubectl: Kubectl, what: str, spec: Raw) -> None:
    kubectl("patch", what, "--type=merge", f"--patch={json.dumps({'spec': spec})}")


@contextmanager
def policy_that_is_not_there(kubectl: Kubectl) -> Iterator[None]:
    _merged(kubectl, AUTOMATION, {"defaultVllmPolicy": "careful"})
    try:
        yield
    finally:
        _merged(kubectl, AUTOMATION, {"defaultVllmPolicy": None})
        kubectl("delete", "vllmpolicy/careful", "--ignore-not-found")


@contextmanager
def policy_that_contradicts_itself(kubectl: Kubectl) -> Iterator[None]:
    policy = {"apiVersion": API_VERSION, "kind": "VLLMPolicy", "metadata": {"name": "odd"}}
    with there(kubectl, {**policy, "spec": {"windowCoverage": 100}}):
        wait_for(lambda: "Contradictory" in json.dumps(kubectl.get("vllmpolicy/odd")), "the recommender's words")
        yield


@contextmanager
def automation_of_no_namespace(kubectl: Kubectl) -> Iterator[None]:
    named = {"apiVersion": API_VERSION, "kind": "AutomatedNamespace", "metadata": {"name": "gone"}}
    with there(kubectl, {**named, "spec": {"vllmOptimize": False}}):
        yield


@contextmanager
def emitter_without_its_scheduler(kubectl: Kubectl) -> Iterator[None]:
    _merged(kubectl, AUTOMATION, {"emitter": "volcano"})
    try:
        yield
    finally:
        _merged(kubectl, AUTOMATION, {"emitter": None})


@contextmanager
def argo_cd_that_writes_the_bundle(kubectl: Kubectl) -> Iterator[None]:
    """The configuration in git was copied from the cluster, caBundle and all: it is written as Argo CD does."""
    held = kubectl.get(CONFIGURATION)
    [webhook] = held["webhooks"]
    copied = {name: webhook[name] for name in ("name", "clientConfig", "sideEffects", "admissionReviewVersions")}
    _synced(kubectl, [copied])
    try:
        yield
    finally:
        _synced(kubectl, [])


def _synced(kubectl: Kubectl, webhooks: list[Raw]) -> None:
    head = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    manifest = {**head, "metadata": {"name": CONFIGURATION.rpartition("/")[2]}, "webhooks": webhooks}
    by_argo = ("--server-side", "--force-conflicts", "--field-manager=argocd-controller")
    kubectl("apply", *by_argo, "--filename=-", given=manifest)


@contextmanager
def quota_that_keeps_the_plugin_out(kubectl: Kubectl) -> Iterator[None]:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "full", "namespace": FULL}}
    kubectl.namespace(FULL)
    try:
        with there(kubectl, {**quota, "spec": {"hard": {"count/configmaps": "1"}}}):
            wait_for(lambda: _used(kubectl) == "1", "a quota that counts")
            kubectl("label", "namespace", FULL, f"{LABEL_INJECT}=enabled")
            yield
    finally:
        kubectl("delete", "namespace", FULL)


def _used(kubectl: Kubectl) -> str:
    status = kubectl.get(f"--namespace={FULL}", "resourcequota/full").get("status") or {}
    return str((status.get("used") or {}).get("count/configmaps"))


@contextmanager
def monitor_that_no_prometheus_takes(kubectl: Kubectl) -> Iterator[None]:
    """The chart's own PodMonitor, and a Prometheus that looks for the label that kube-prometheus-stack wants. There is
    no operator, nor does it matter to what is found."""
    chart, only = str(ROOT / "deploy" / "chart"), "--show-only=templates/monitors.yaml"
    enabled = "--set=metrics.podMonitor.enabled=true"
    made = kubectl.helm("template", RELEASE, chart, f"--namespace={NAMESPACE}", enabled, only)
    file = kubectl.scratch / "monitor.yaml"
    file.write_text(made)
    spec = {"podMonitorSelector": {"matchLabels": {"release": "stack"}}, "podMonitorNamespaceSelector": {}}
    prometheus = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": "stack", "namespace": TEAM},
        "spec": spec,
    }
    definitions = [f"--filename={folder_with(name) / name}" for name in MONITORING]
    kubectl("apply", "--server-side", *definitions)
    try:
        kubectl("wait", "--for=condition=Established", "--timeout=300s", *definitions)
        wait_for(lambda: kubectl("get", "podmonitors,prometheuses", "--ignore-not-found") or "none", "the new kinds")
        kubectl("apply", f"--filename={file}")
        kubectl.apply(prometheus)
        yield
    finally:
        kubectl("delete", *definitions)


FAULTS = (
    Fault(policy_that_is_not_there, "PolicyMissing", "careful", "kubectl create -f -"),
    Fault(policy_that_contradicts_itself, "PolicyContradictory", "windowCoverage 100", "edit vllmpolicy", mends=False),
    Fault(automation_of_no_namespace, "AutomationWithoutPods", "no Namespace", "delete automatednamespace gone"),
    Fault(emitter_without_its_scheduler, "SchedulerMissing", "volcano", "patch clusterautomation default"),
    Fault(argo_cd_that_writes_the_bundle, "GitOpsFights", "argocd-controller", "--show-managed-fields", mends=False),
    Fault(quota_that_keeps_the_plugin_out, "PluginMapMissing", "is not there", "logs", mends=False),
    Fault(monitor_that_no_prometheus_takes, "MonitorNotSelected", "by its labels", "release=stack"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_named_first(team: Kubectl, fault: Fault) -> None:
    fault.tried(team)
