"""What `deploy/kubernetes` ships is accepted by the API server, fits together, and is enough to run with."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bench.lab.client import StatusError, documents
from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import MANIFESTS, NAMESPACE, SERVICE, Webhook
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.resources import Resource, resource_of
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS
from recommender.api.policies import AutomatedNamespace, ClusterAutomation, VLLMPolicy
from recommender.api.recommendations import VLLMRecommendation
from webhook.cluster_watch import ClusterWatch
from webhook.publishing import CONFIGURATIONS
from webhook.secret_certificates import SECRETS, SecretCertificates

Raw = dict[str, Any]

FILES = sorted(MANIFESTS.glob("*.yaml"))
OURS = [resource_of(model) for model in (VLLMRecommendation, VLLMPolicy, AutomatedNamespace, ClusterAutomation)]
ACCOUNT = f"system:serviceaccount:{NAMESPACE}:{SERVICE}"
SECRET = f"{SERVICE}-tls"


def _shipped(kind: str, component: str = "webhook") -> Raw:
    files = MANIFESTS.glob(f"{component}-*.yaml")
    [found] = [found for file in files for found in documents(file) if found["kind"] == kind]
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_api_server_accepts_it(webhook: Webhook, file: Path) -> None:
    """Every field is one that it knows."""
    client = webhook.plane.client
    for document in documents(file):
        metadata = document["metadata"]
        path = client.collection(document["apiVersion"], document["kind"], metadata.get("namespace"))
        options = {"fieldManager": "test", "force": "true", "dryRun": "All", "fieldValidation": "Strict"}
        answer = client.patch(f"{path}/{metadata['name']}", document, "apply", **options)
        assert answer["metadata"]["name"] == metadata["name"]
        assert client.warnings == []


@pytest.mark.parametrize("component", ["webhook", "recommender"])
def test_its_pods_are_admitted_in_its_namespace(webhook: Webhook, component: str) -> None:
    """Whose Pod Security level is the strictest; and our own webhook is not asked about them."""
    client = webhook.plane.client
    assert client.get(f"/api/v1/namespaces/{NAMESPACE}")["metadata"]["labels"][
        "pod-security.kubernetes.io/enforce"
    ] == ("restricted")
    if component == "recommender":
        client.apply(_shipped("ServiceAccount", component))
    template = _shipped("Deployment", component)["spec"]["template"]
    pod = {"metadata": template["metadata"] | {"name": component}, "spec": template["spec"]}
    path = f"/api/v1/namespaces/{NAMESPACE}/pods"
    made = client.create(path, pod, dryRun="All")
    assert made["spec"]["containers"][0]["args"] == template["spec"]["containers"][0]["args"]
    del pod["spec"]["containers"][0]["securityContext"]
    with pytest.raises(StatusError, match="violates PodSecurity"):
        client.create(path, pod, dryRun="All")


def test_the_recommender_is_one_on_its_volume() -> None:
    """Which a second one could not mount elsewhere. Its port is the one that is probed and scraped."""
    deployment, claim = _shipped("Deployment", "recommender"), _shipped("PersistentVolumeClaim", "recommender")
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]["type"]) == (1, "Recreate")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    [volume] = [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [mount] = [one for one in container["volumeMounts"] if one["name"] == volume["name"]]
    assert f"--history={mount['mountPath']}/history.db" in container["args"]
    [port], [served] = container["ports"], _shipped("Service", "recommender")["spec"]["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    assert {served["targetPort"], container["livenessProbe"]["httpGet"]["port"]} == {port["name"]}
    selector = _shipped("Service", "recommender")["spec"]["selector"]
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_it_fits_together() -> None:
    deployment, service, budget = _shipped("Deployment"), _shipped("Service"), _shipped("PodDisruptionBudget")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        service["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()
    [container] = template["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    [served] = service["spec"]["ports"]
    called = _shipped("MutatingWebhookConfiguration")["webhooks"][0]["clientConfig"]["service"]
    assert (called["namespace"], called["name"], called["port"]) == (
        service["metadata"]["namespace"],
        service["metadata"]["name"],
        served["port"],
    )
    assert f"--port={ports[served['targetPort']]}" in container["args"]
    assert template["spec"]["serviceAccountName"] == _shipped("ServiceAccount")["metadata"]["name"]
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]
    drained = next(float(item.partition("=")[2]) for item in container["args"] if item.startswith("--drain-seconds="))
    assert template["spec"]["terminationGracePeriodSeconds"] > drained + 5


def _may(plane: ControlPlane, resource: Resource, verb: str, name: str = "", namespace: str = "") -> bool:
    attributes = {"group": resource.group, "resource": resource.plural, "verb": verb, "name": name}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": ACCOUNT,
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": attributes | {"namespace": namespace},
        },
    }
    answer = plane.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


def test_its_rights_are_those_of_its_features(webhook: Webhook) -> None:
    """Everything that the program follows or writes, and nothing else."""
    plane = webhook.plane
    followed = [*OURS, *BUILT_IN_OWNERS, *CUSTOM_OWNERS]
    for resource in followed:
        assert _may(plane, resource, "list"), resource
        assert _may(plane, resource, "watch"), resource
        for verb in ("get", "create", "update", "patch", "delete"):
            assert not _may(plane, resource, verb), (resource, verb)
    for verb in ("list", "watch", "patch"):
        assert _may(plane, CONFIGURATIONS, verb, "vllm-rightsizer")
        assert not _may(plane, CONFIGURATIONS, verb, "another")
        assert _may(plane, SECRETS, verb, SECRET, NAMESPACE)
        assert not _may(plane, SECRETS, verb, "another", NAMESPACE)
        assert not _may(plane, SECRETS, verb, SECRET, "default")
    assert _may(plane, SECRETS, "create", "", NAMESPACE)
    assert not _may(plane, SECRETS, "create", "", "default")
    assert not _may(plane, SECRETS, "get", SECRET, NAMESPACE)
    # Of anything else there is no word in the rules.
    known = {(resource.group, resource.plural) for resource in (*followed, CONFIGURATIONS, SECRETS)}
    assert {
        (group, resource)
        for kind in ("ClusterRole", "Role")
        for rule in _shipped(kind)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    } == known


async def test_it_runs_under_its_service_account(webhook: Webhook, tmp_path: Path) -> None:
    """With a token as the kubelet mounts it: everything is followed, and the certificates are served."""
    plane = webhook.plane
    path = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{SERVICE}/token"
    token = plane.client.create(path, {"spec": {"expirationSeconds": 600}})["status"]["token"]
    config = json.loads(plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": token}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    server = await ApiServer.connect(kubeconfig)
    watch = ClusterWatch(server)
    hosts = (f"{SERVICE}.{NAMESPACE}.svc",)
    certificates = SecretCertificates(server, NAMESPACE, SECRET, "vllm-rightsizer", hosts)
    try:
        async with watch.running(), certificates.running(), asyncio.timeout(180):
            while watch.knowledge is None or watch.trouble or certificates.trouble:
                await asyncio.sleep(0.05)
    finally:
        await server.close()
    assert certificates.served.certificate is not None
