"""`doctor` on a real API server, with the shipped manifests and a real webhook: it gathers what there is.

Nothing runs pods here: those of Deployments are written as a kubelet would. The doctor looks at a whole cluster, so
this one has an API server of its own.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import ROOT, folder_with
from bench.lab.webhook import CONFIGURATION, MANIFESTS, NAMESPACE, Webhook, allow, install
from recommender.api.plugin_wheel import plugin_config_map
from recommender.leading import LEASE
from vllm_plugin.names import API_VERSION, LABEL_INJECT
from vllm_rightsizer.cli import app
from vllm_rightsizer.errors import UserError
from webhook.pairs import new_authority, pem_of

from . import doctor_faults_of_pods as of_pods
from .pods import OPTED_IN, PATIENCE_SECONDS, injected, tried, vllm_pod

Raw = dict[str, Any]
Fault = Callable[[ControlPlane, Webhook], AbstractContextManager[None]]

CHAT = "chat"
DEPLOYMENTS = ("webhook-deployment", "recommender-deployment")
RUNS = {"phase": "Running", "podIP": "10.244.0.9", "startTime": "2026-11-21T12:00:00Z"}


@pytest.fixture(scope="module")
def webhook(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webhook]:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("etcd", "kube-apiserver")
    folder = tmp_path_factory.mktemp("doctor")
    with running(folder / "plane") as plane:
        plane.install_crds(ROOT / "deploy" / "crds")
        install(plane)
        allow(plane, PATIENCE_SECONDS)
        plane.client.apply_files(MANIFESTS / "automation.yaml", *(MANIFESTS / f"{name}.yaml" for name in DEPLOYMENTS))
        for name in DEPLOYMENTS:
            for raw in documents(MANIFESTS / f"{name}.yaml"):
                if raw["kind"] == "Deployment":
                    run(plane, raw)
        plane.namespace(CHAT, OPTED_IN)
        plane.client.create(f"/api/v1/namespaces/{CHAT}/configmaps", plugin_config_map(CHAT))
        made = Webhook(plane, folder / "webhook")
        try:
            made.start()
            wait_for_calls(plane)
            yield made
        finally:
            made.stop()


def run(plane: ControlPlane, deployment: Raw) -> None:
    """One pod, and what the controllers would say of it."""
    name, template = deployment["metadata"]["name"], deployment["spec"]["template"]
    pod = {"metadata": {"name": f"{name}-0", "labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    plane.client.create(f"/api/v1/namespaces/{NAMESPACE}/pods", pod)
    state = {"name": template["spec"]["containers"][0]["name"], "ready": True, "state": {"running": {}}}
    started = {**RUNS, "containerStatuses": [state | {"image": "", "imageID": "", "restartCount": 0}]}
    plane.client.patch(f"/api/v1/namespaces/{NAMESPACE}/pods/{name}-0/status", {"status": started})
    count = deployment["spec"]["replicas"]
    status = {"replicas": count, "readyReplicas": count, "updatedReplicas": count, "availableReplicas": count}
    plane.client.patch(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}/status", {"status": status})


@pytest.fixture(autouse=True)
def led(webhook: Webhook) -> None:
    """A recommender has renewed its Lease a moment ago."""
    lease(webhook.plane, datetime.now(UTC))


def wait_for_calls(plane: ControlPlane) -> None:
    """Until the API server calls the webhook, as it has not a moment after whatever kept it from that has gone."""
    plane.wait_for(lambda: injected(tried(plane, CHAT, vllm_pod())), "call of the webhook")


def lease(plane: ControlPlane, renewed: datetime) -> None:
    spec = {"holderIdentity": "one", "leaseDurationSeconds": 12, "renewTime": f"{renewed:%Y-%m-%dT%H:%M:%S.%fZ}"}
    metadata = {"name": LEASE, "namespace": NAMESPACE}
    plane.client.apply({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec})


def examined(kubeconfig: Path, *options: str) -> tuple[int, list[Raw]]:
    """The exit code, and the findings."""
    done = CliRunner().invoke(app, ["doctor", "--kubeconfig", str(kubeconfig), "-o", "json", *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)["findings"]


def test_nothing_is_found_where_all_is_well(webhook: Webhook) -> None:
    assert examined(webhook.plane.kubeconfig) == (0, [])


@contextlib.contextmanager
def failure_policy(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    def say(policy: str) -> None:
        patch = [{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": policy}]
        plane.client.patch(CONFIGURATION, patch, "json")

    say("Fail")
    try:
        yield
    finally:
        say("Ignore")


@contextlib.contextmanager
def definition_of_before(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/vllmpolicies.vllm-rightsizer.io"
    field = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/caution"
    plane.client.patch(path, [{"op": "remove", "path": field}], "json")
    try:
        yield
    finally:
        plane.install_crds(ROOT / "deploy" / "crds")


@contextlib.contextmanager
def right_taken_away(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/vllm-rightsizer-recommender"
    rules = plane.client.get(path)["rules"]
    plane.client.patch(
        path, {"rules": [rule for rule in rules if rule["resources"] != ["pods", "namespaces", "nodes"]]}
    )
    spec = {
        "user": f"system:serviceaccount:{NAMESPACE}:vllm-rightsizer-recommender",
        "resourceAttributes": {"verb": "list", "resource": "pods"},
    }
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}

    def allowed() -> bool:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(plane.client.create(path, review)["status"]["allowed"])

    # RBAC takes effect a moment later.
    plane.wait_for(lambda: not allowed(), "right that is gone")
    try:
        yield
    finally:
        plane.client.patch(path, {"rules": rules})
        plane.wait_for(allowed, "right that is back")


@contextlib.contextmanager
def webhook_killed(plane: ControlPlane, webhook: Webhook) -> Iterator[None]:
    webhook.stop()
    try:
        yield
    finally:
        webhook.start()
        wait_for_calls(plane)


@contextlib.contextmanager
def bundle_of_before(plane: ControlPlane, webhook: Webhook) -> Iterator[None]:
    """Somebody writes the authority of a former installation, while the webhook hangs."""
    right = webhook.published()
    # It is not waited for here.
    allow(plane, 1)
    os.kill(webhook.pid, signal.SIGSTOP)
    try:
        webhook.publish(pem_of(new_authority(datetime.now(UTC)).certificate))
        yield
    finally:
        os.kill(webhook.pid, signal.SIGCONT)
        allow(plane, PATIENCE_SECONDS)
        plane.wait_for(lambda: webhook.published() == right, "authority that the webhook writes back")
        wait_for_calls(plane)


@contextlib.contextmanager
def no_endpoint(plane: ControlPlane, webhook: Webhook) -> Iterator[None]:
    webhook.leave()
    try:
        yield
    finally:
        webhook.come_back()
        wait_for_calls(plane)


@contextlib.contextmanager
def stale_lease(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    lease(plane, datetime.now(UTC) - timedelta(minutes=5))
    yield


@contextlib.contextmanager
def nobody_opted_in(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    plane.client.patch(f"/api/v1/namespaces/{CHAT}", {"metadata": {"labels": {LABEL_INJECT: None}}})
    try:
        yield
    finally:
        plane.client.patch(f"/api/v1/namespaces/{CHAT}", {"metadata": {"labels": OPTED_IN}})
        wait_for_calls(plane)


@contextlib.contextmanager
def automation_of_no_namespace(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    named = {"apiVersion": API_VERSION, "kind": "AutomatedNamespace", "metadata": {"name": "gone"}}
    plane.client.apply({**named, "spec": {"vllmOptimize": True}})
    try:
        yield
    finally:
        plane.client.delete(f"/apis/{API_VERSION}/automatednamespaces/gone")


@contextlib.contextmanager
def pod_older_than_the_opt_in(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    name = plane.namespace("late")
    path = f"/api/v1/namespaces/{name}"
    plane.client.create(f"{path}/configmaps", plugin_config_map(name))
    plane.client.create(f"{path}/pods", vllm_pod())
    plane.client.patch(f"{path}/pods/llama/status", {"status": RUNS})
    plane.client.patch(path, {"metadata": {"labels": OPTED_IN}})
    try:
        yield
    finally:
        plane.client.delete(f"{path}/pods/llama", gracePeriodSeconds="0")
        plane.client.patch(path, {"metadata": {"labels": {LABEL_INJECT: None}}})


@contextlib.contextmanager
def pod_that_is_refused(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    pod = vllm_pod()
    reference = {"configMapKeyRef": {"name": "paths", "key": "python"}}
    pod["spec"]["containers"][0]["env"] = [{"name": "PYTHONPATH", "valueFrom": reference}]
    with of_pods.shown(plane, pod, RUNS):
        yield


@contextlib.contextmanager
def application_that_heals(plane: ControlPlane, _webhook: Webhook) -> Iterator[None]:
    """What Argo CD's controller would write of an Application, and its kind with no more than its name."""
    plane.define(APPLICATIONS)
    seen = {"kind": "MutatingWebhookConfiguration", "name": "vllm-rightsizer", "status": "OutOfSync"}
    plane.client.create(
        "/apis/argoproj.io/v1alpha1/namespaces/default/applications",
        {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Application",
            "metadata": {"name": "platform"},
            "spec": {"syncPolicy": {"automated": {"selfHeal": True}}},
            "status": {"resources": [seen]},
        },
    )
    try:
        yield
    finally:
        definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/applications.argoproj.io"
        plane.client.delete(definition)
        plane.wait_for(lambda: not plane.exists(definition), "end of Applications")


OPEN = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
APPLICATIONS: Raw = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "applications.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "names": {"plural": "applications", "kind": "Application"},
        "scope": "Namespaced",
        "versions": [{"name": "v1alpha1", "served": True, "storage": True, "schema": OPEN}],
    },
}


@pytest.mark.parametrize(
    ("fault", "finding", "seen"),
    [
        (application_that_heals, "GitOpsFights", "Application default/platform calls it OutOfSync"),
        (failure_policy, "FailurePolicyChanged", "failurePolicy is Fail"),
        (definition_of_before, "DefinitionOld", "v1alpha1.spec.caution"),
        (right_taken_away, "RightsMissing", "list, watch pods"),
        (webhook_killed, "WebhookUnreachable", "came back without the plugin"),
        (bundle_of_before, "AuthorityWrong", "does not verify the webhook's certificate"),
        (no_endpoint, "WebhookWithoutEndpoints", "no ready endpoint"),
        (stale_lease, "RecommenderNotLeading", "one holds it"),
        (nobody_opted_in, "NobodyOptedIn", LABEL_INJECT),
        (automation_of_no_namespace, "AutomationWithoutPods", "no Namespace of that name"),
        (pod_older_than_the_opt_in, "PodNotAdmitted", "without the plugin"),
        (pod_that_is_refused, "PluginRefused", "PYTHONPATH"),
        (of_pods.policy_against_our_volume, "ProbeRefused", "no pod may have an emptyDir"),
        (of_pods.injector_that_does_not_come, "InjectorNotPulled", f"{of_pods.INJECTOR}, which its node does not get"),
        (of_pods.plugin_of_another_version, "PluginMapMissing", "that of another version is"),
        (of_pods.vllm_beside_us, "VLLMBesideUs", "in the namespace of webhook and recommender"),
        (of_pods.claims_that_nobody_makes, "ClaimsNotKept", "the recommender runs with --no-gpu-claims"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_fault_is_named_first(webhook: Webhook, fault: Fault, finding: str, seen: str) -> None:
    with fault(webhook.plane, webhook):
        code, found = examined(webhook.plane.kubeconfig)
        assert code == 1
        assert found[0]["name"] == finding
        assert seen in found[0]["seen"]
    # What was mended is found no more.
    lease(webhook.plane, datetime.now(UTC))
    assert examined(webhook.plane.kubeconfig) == (0, [])


def test_findings_as_yaml(webhook: Webhook) -> None:
    with failure_policy(webhook.plane, webhook):
        arguments = ["doctor", "--kubeconfig", str(webhook.plane.kubeconfig), "-o", "yaml"]
        [found] = YAML(typ="safe").load(CliRunner().invoke(app, arguments).stdout)["findings"]
    assert found["name"] == "FailurePolicyChanged"
    patch = found["fix"].partition(" -p ")[2].strip("'")
    assert json.loads(patch)[0]["value"] == "Ignore"


def test_what_a_user_must_not_see_is_said_and_no_more(webhook: Webhook) -> None:
    plane = webhook.plane
    code, found = examined(plane.kubeconfig_of("nobody", plane.user("nobody")))
    assert code == 1
    assert {one["name"] for one in found} == {"NotLookedAt"}
    assert {"Pod", "MutatingWebhookConfiguration"} < {one["about"] for one in found}


def test_bundle_has_our_objects_and_no_secret(webhook: Webhook, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    assert examined(webhook.plane.kubeconfig, "--bundle", str(file)) == (0, [])
    with tarfile.open(file) as tar:
        held = {entry.name: tar.extractfile(entry).read().decode() for entry in tar}  # type: ignore[union-attr] # files
    assert "vllm-rightsizer-webhook" in held["vllm-rightsizer/objects/deployment.json"]
    # It is on no node, so that nothing is in it.
    assert held["vllm-rightsizer/logs/vllm-rightsizer-webhook-0.log"] == ""
    assert isinstance(json.loads(held["vllm-rightsizer/events.json"]), list)
    secret = webhook.plane.client.get(f"/api/v1/namespaces/{NAMESPACE}/secrets/vllm-rightsizer-webhook-tls")
    keys = [base64.b64decode(secret["data"][name]).decode() for name in ("ca.key", "tls.key")]
    lines = [line for key in keys for line in key.splitlines()[1:-1]]
    assert not [name for name, text in held.items() if any(line in text for line in lines) or "PRIVATE KEY" in text]


def test_an_api_server_that_does_not_answer(webhook: Webhook, tmp_path: Path) -> None:
    config = json.loads(webhook.plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be reached"):
        examined(file)
