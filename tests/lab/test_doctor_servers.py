"""`doctor` on a whole cluster, and what can go wrong with our servers, their rights, their certificates and our kinds.

Each fault is made as people make it, by kubectl, on what Helm has installed. The command that doctor prints for it is
run as it is printed, and afterwards nothing is found any more; in the end Helm can upgrade without any conflict.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from bench.lab.client import Raw, documents
from bench.lab.kubectl import Kubectl
from bench.lab.programs import ROOT, LabError
from recommender.leading import LEASE
from vllm_plugin.names import LABEL_INJECT
from webhook.pairs import Lifetimes, new_leaf, read_pair

from .doctor_lab import TEAM, Fault, examined, first, idle, patched, pod, run, there, wait_until_well
from .lab_cluster import NAMESPACE, RECOMMENDER, RELEASE, WEBHOOK, Installed, our_pods, ready_pods, wait_for

OURS = f"--namespace={NAMESPACE}"
CONFIGURATION = "mutatingwebhookconfiguration/vllm-rightsizer"
WEBHOOK_DEPLOYMENT = "deployment/vllm-rightsizer-webhook"
RECOMMENDER_DEPLOYMENT = "deployment/vllm-rightsizer-recommender"
SERVICE = "service/vllm-rightsizer-webhook"
SECRET = "vllm-rightsizer-webhook-tls"
FROM_HELM = f"helm get manifest {RELEASE} --namespace={NAMESPACE} | kubectl apply "


@pytest.fixture(scope="module")
def team(installed: Installed) -> Iterator[Kubectl]:
    """A namespace has opted in, and has the plugin: there all is well."""
    kubectl = installed.kubectl
    kubectl.namespace(TEAM, {LABEL_INJECT: "enabled"})
    wait_for(lambda: _plugin_maps(kubectl), "plugin")
    wait_until_well(kubectl)
    yield kubectl
    kubectl("delete", "namespace", TEAM)


def _plugin_maps(kubectl: Kubectl) -> list[Raw]:
    return kubectl.items(f"--namespace={TEAM}", "configmaps", "-l", "app.kubernetes.io/managed-by=vllm-rightsizer")


@contextmanager
def recommender_scaled_to_nothing(kubectl: Kubectl) -> Iterator[None]:
    kubectl("scale", OURS, RECOMMENDER_DEPLOYMENT, "--replicas=0")
    wait_for(lambda: not our_pods(kubectl, RECOMMENDER), "no recommender")
    yield


@contextmanager
def recommender_of_an_image_that_is_not_there(kubectl: Kubectl) -> Iterator[None]:
    kubectl("set", "image", OURS, RECOMMENDER_DEPLOYMENT, "recommender=vllm-rightsizer/vllm-rightsizer:none")
    wait_for(lambda: _waits(kubectl, RECOMMENDER, "Image"), "a pod without its image")
    yield


@contextmanager
def webhook_with_an_argument_that_it_does_not_know(kubectl: Kubectl) -> Iterator[None]:
    added = {"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--no-such-option"}
    patched(kubectl, WEBHOOK_DEPLOYMENT, added, namespace=NAMESPACE)
    wait_for(lambda: _waits(kubectl, WEBHOOK, "CrashLoopBackOff"), "a pod that ends at once")
    yield


def _waits(kubectl: Kubectl, component: str, reason: str) -> bool:
    states = [
        (state.get("state") or {}).get("waiting") or {}
        for found in our_pods(kubectl, component)
        for state in found["status"].get("containerStatuses") or ()
    ]
    return any(reason in str(waiting.get("reason")) for waiting in states)


@contextmanager
def failure_policy_changed(kubectl: Kubectl) -> Iterator[None]:
    patched(kubectl, CONFIGURATION, {"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Fail"})
    yield


@contextmanager
def configuration_deleted(kubectl: Kubectl) -> Iterator[None]:
    kubectl("delete", CONFIGURATION)
    yield


@contextmanager
def second_configuration(kubectl: Kubectl) -> Iterator[None]:
    """As a former installation in another namespace leaves it behind."""
    made = kubectl.get(CONFIGURATION)
    made["metadata"] = {"name": "former"}
    made["webhooks"][0]["clientConfig"]["service"]["namespace"] = "default"
    kubectl("create", "--filename=-", given=made)
    yield


@contextmanager
def right_taken_away(kubectl: Kubectl) -> Iterator[None]:
    role = "clusterrole/vllm-rightsizer-recommender"
    at = next(at for at, rule in enumerate(kubectl.get(role)["rules"]) if "pods" in rule["resources"])
    patched(kubectl, role, {"op": "remove", "path": f"/rules/{at}"})
    yield


@contextmanager
def service_of_other_pods(kubectl: Kubectl) -> Iterator[None]:
    path = "/spec/selector/app.kubernetes.io~1component"
    patched(kubectl, SERVICE, {"op": "replace", "path": path, "value": "web"}, namespace=NAMESPACE)
    wait_for(lambda: not _endpoints(kubectl), "no endpoint")
    yield


@contextmanager
def service_of_another_port(kubectl: Kubectl) -> Iterator[None]:
    path = "/spec/ports/0/targetPort"
    patched(kubectl, SERVICE, {"op": "replace", "path": path, "value": 9443}, namespace=NAMESPACE)
    wait_for(lambda: any(9443 in ports for ports in _endpoints(kubectl)), "another port")
    yield


def _endpoints(kubectl: Kubectl) -> list[list[int]]:
    """Ports of each slice that leads somewhere."""
    slices = kubectl.items(OURS, "endpointslices", "-l", "kubernetes.io/service-name=vllm-rightsizer-webhook")
    return [[port["port"] for port in one["ports"] or ()] for one in slices if one["endpoints"]]


@contextmanager
def definition_deleted(kubectl: Kubectl) -> Iterator[None]:
    """One of which there is no object; those of the others would go with it."""
    kubectl("delete", "customresourcedefinition/automatednamespaces.vllm-rightsizer.io")
    yield


@contextmanager
def definition_of_before(kubectl: Kubectl) -> Iterator[None]:
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/caution"
    name = "customresourcedefinition/vllmpolicies.vllm-rightsizer.io"
    patched(kubectl, name, {"op": "remove", "path": path})
    yield


@contextmanager
def certificate_that_nobody_may_renew(kubectl: Kubectl) -> Iterator[None]:
    """A policy of the cluster keeps the webhook from its Secret, in which is a leaf that ends tomorrow."""
    name, path = "doctor-secrets", "object.metadata.name"
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["secrets"]}
    denied = f"{path} != '{SECRET}' || !request.userInfo.username.startsWith('system:serviceaccount:{NAMESPACE}:')"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule]},
            "validations": [{"expression": denied, "message": "only people write Secrets"}],
        },
    }
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    with there(kubectl, policy, binding):
        account = (f"--as=system:serviceaccount:{NAMESPACE}:vllm-rightsizer-webhook", "--as-group=system:masters")
        touch = ("annotate", OURS, *account, f"secret/{SECRET}", "--overwrite", "--dry-run=server", "touched=yes")
        wait_for(lambda: _refused(kubectl, *touch), "a policy that is followed")
        held = kubectl.get(OURS, "secret", SECRET)["data"]
        authority = read_pair(base64.b64decode(held["ca.crt"]), base64.b64decode(held["ca.key"]))
        assert authority is not None
        lifetimes, now = Lifetimes(leaf=timedelta(days=3)), datetime.now(UTC)
        leaf = new_leaf(authority, [f"vllm-rightsizer-webhook.{NAMESPACE}.svc"], now - timedelta(days=2.5), lifetimes)
        files = {"tls.crt": leaf.certificate_pem, "tls.key": leaf.key_pem}
        data = {file: base64.b64encode(content).decode() for file, content in files.items()}
        kubectl("patch", OURS, f"secret/{SECRET}", "--type=merge", f"--patch={json.dumps({'data': data})}")
        yield


def _refused(kubectl: Kubectl, *arguments: str) -> bool:
    try:
        kubectl(*arguments)
    except LabError as error:
        return "only people" in str(error)
    return False


@contextmanager
def lease_of_somebody_who_is_gone(kubectl: Kubectl) -> Iterator[None]:
    # So long it is held: long enough for a slow machine to look at it.
    spec = {"holderIdentity": "gone", "leaseDurationSeconds": 30, "renewTime": "2026-01-01T00:00:00.000000Z"}
    kubectl("patch", OURS, f"lease/{LEASE}", "--type=merge", f"--patch={json.dumps({'spec': spec})}")
    yield


FAULTS = (
    Fault(recommender_scaled_to_nothing, "RecommenderNotRunning", "scaled to 0", "scale deployment/"),
    Fault(recommender_of_an_image_that_is_not_there, "RecommenderNotRunning", "ErrImageNeverPull", FROM_HELM),
    Fault(webhook_with_an_argument_that_it_does_not_know, "WebhookRolloutStuck", "exit code 2", FROM_HELM),
    Fault(failure_policy_changed, "FailurePolicyChanged", "failurePolicy is Fail", "kubectl patch"),
    Fault(configuration_deleted, "ConfigurationMissing", "none of ours", FROM_HELM),
    Fault(second_configuration, "SeveralWebhooks", "former", "delete mutatingwebhookconfiguration former"),
    Fault(right_taken_away, "RightsMissing", "list, watch pods", FROM_HELM),
    Fault(service_of_other_pods, "WebhookWithoutEndpoints", "no ready endpoint", FROM_HELM),
    Fault(service_of_another_port, "WebhookWithoutEndpoints", "leads to port 9443", FROM_HELM),
    Fault(definition_deleted, "DefinitionMissing", "not there", "vllm-rightsizer crds --apply"),
    Fault(definition_of_before, "DefinitionOld", "v1alpha1.spec.caution", "vllm-rightsizer crds --apply"),
    Fault(certificate_that_nobody_may_renew, "CertificateEnds", "was not renewed", "logs", mends=False),
    Fault(lease_of_somebody_who_is_gone, "RecommenderNotLeading", "gone holds it", "rollout restart"),
)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_named_first_and_its_command_mends_it(team: Kubectl, fault: Fault) -> None:
    fault.tried(team)


def test_webhook_that_is_away_and_a_pod_that_started_meanwhile(team: Kubectl) -> None:
    team("scale", OURS, WEBHOOK_DEPLOYMENT, "--replicas=0")
    wait_for(lambda: not our_pods(team, WEBHOOK), "no webhook")
    with there(team, pod("meanwhile", idle())):
        run(team, first(team, "WebhookNotRunning", "it is scaled to 0 replicas")["fix"])
        assert ready_pods(team, WEBHOOK, 2)
        [found] = wait_for(lambda: _only(team, "PodNotAdmitted"), "the pod that is left")
        assert found["about"] == f"Pod {TEAM}/meanwhile"
    wait_until_well(team)


def _only(kubectl: Kubectl, name: str) -> list[Raw]:
    _, found = examined(kubectl)
    return found if [one["name"] for one in found] == [name] else []


def test_helm_meets_no_conflict_after_all_that(team: Kubectl) -> None:
    """What was written back is Helm's own, so that the next upgrade is nobody's quarrel."""
    chart, values = str(ROOT / "deploy" / "chart"), "--reuse-values"
    team.helm("upgrade", RELEASE, chart, OURS, values, "--set=crds.apply=false", "--wait", "--timeout=15m")
    wait_until_well(team)
    shipped = {raw["metadata"]["name"] for raw in documents(ROOT / "deploy" / "crds" / "vllmpolicies.yaml")}
    assert shipped <= {raw["metadata"]["name"] for raw in team.items("customresourcedefinitions")}
