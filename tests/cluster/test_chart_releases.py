"""Install, upgrade, rollback and uninstall by Helm 3 and 4, on a real API server with our webhook behind it."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import CHART, RELEASE, Helm, HelmError
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import folder_with
from bench.lab.webhook import CONFIGURATION, NAMESPACE, SERVICE, Webhook
from vllm_plugin.names import API_VERSION

from .pods import OPTED_IN, injected, store_recommendation, tried, vllm_pod
from .releases import JobKubelet, first_deleted_at, older_chart
from .test_admission_scope import LLAMA

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

OURS = f"/apis/{API_VERSION}"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
CONFIGURATIONS = CONFIGURATION.rpartition("/")[0]
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
ACCOUNTS = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
SECRET = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SERVICE}-tls"
VOLUME = "PersistentVolumeClaim/vllm-rightsizer-recommender"
AUTOMATION = f"{OURS}/clusterautomations/default"
BY_HAND = {"crds": {"apply": False}}
LOSS_BUDGET = {"policies": {"default": {}, "frugal": {"lossBudget": 0.75}}}


@pytest.fixture(scope="module")
def plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane on which nothing of ours is installed, with controllers."""
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm", "helm3", "etcd", "kube-apiserver", "kube-controller-manager")
    with running(tmp_path_factory.mktemp("releases")) as made:
        made.start_controller_manager()
        yield made


@pytest.fixture(scope="module")
def kubelet(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobKubelet]:
    made = JobKubelet(plane, tmp_path_factory.mktemp("jobs"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(params=[4, 3], ids=lambda version: f"helm{version}")
def helm(request: pytest.FixtureRequest, plane: ControlPlane, kubelet: JobKubelet, tmp_path: Path) -> Iterator[Helm]:
    """Helm of either version; what it installed is uninstalled in the end, and the definitions are removed, too."""
    made = Helm(tmp_path, plane.kubeconfig, request.param)
    kubelet.ran.clear()
    yield made
    made("uninstall", RELEASE, f"--namespace={NAMESPACE}", "--ignore-not-found")
    for path in (DEFINITIONS, f"/api/v1/namespaces/{NAMESPACE}/secrets"):
        plane.client.delete(path)
    plane.wait_for(lambda: not plane.client.get(DEFINITIONS)["items"], "end of the definitions")


def _do(helm: Helm, what: str, chart: Path, *options: str, values: Raw | None = None) -> str:
    return helm(what, RELEASE, str(chart), f"--namespace={NAMESPACE}", "--create-namespace", *options, values=values)


def _objects(helm: Helm, plane: ControlPlane) -> dict[str, str]:
    """The UID of each object of the release, by kind and name."""
    text = helm("get", "manifest", RELEASE, f"--namespace={NAMESPACE}")
    found = {}
    for document in filter(None, YAML(typ="safe", pure=True).load_all(StringIO(text))):
        metadata = document["metadata"]
        path = plane.client.collection(document["apiVersion"], document["kind"], metadata.get("namespace"))
        live = plane.client.get(f"{path}/{metadata['name']}")
        found[f"{document['kind']}/{metadata['name']}"] = live["metadata"]["uid"]
    return found


def _bundle(plane: ControlPlane) -> str:
    [webhook] = plane.client.get(CONFIGURATION)["webhooks"]
    return str(webhook["clientConfig"].get("caBundle") or "")


def _budget_is_known(plane: ControlPlane) -> bool:
    """Whether the definition of policies has the field that the older one lacks."""
    version = plane.client.get(f"{DEFINITIONS}/vllmpolicies.vllm-rightsizer.io")["spec"]["versions"][0]
    return "lossBudget" in version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]


def test_a_life(helm: Helm, plane: ControlPlane, kubelet: JobKubelet, tmp_path: Path) -> None:
    """From an older version to this one, back, and away: what people made, and what the webhook wrote, stays."""
    client = plane.client
    namespace = plane.namespace(f"{tmp_path.name.replace('_', '-')}-chat".lower(), OPTED_IN)
    said = _do(helm, "install", older_chart(tmp_path), values=BY_HAND)
    assert "kubectl label namespace NAMESPACE vllm-rightsizer.io/inject=enabled" in said
    assert not _budget_is_known(plane)
    webhook = Webhook(plane, tmp_path / "webhook")
    try:
        webhook.start()
        plane.wait_for(lambda: injected(tried(plane, namespace, vllm_pod())), "call of the webhook")
        store_recommendation(plane, namespace, LLAMA, vllm_pod())
        recommendations = client.get(f"{OURS}/vllmrecommendations")["items"]
        before, bundle, secret = _objects(helm, plane), _bundle(plane), client.get(SECRET)["data"]
        assert bundle

        _do(helm, "upgrade", CHART, values={"webhook": {"replicas": 3}})
        assert kubelet.ran["crds --apply"].count("is up to date") == 4
        assert _budget_is_known(plane)
        assert client.get(f"{DEPLOYMENTS}/{SERVICE}")["spec"]["replicas"] == 3
        assert before.items() <= _objects(helm, plane).items()
        assert (_bundle(plane), client.get(SECRET)["data"]) == (bundle, secret)
        assert injected(tried(plane, namespace, vllm_pod()))

        helm("rollback", RELEASE, "1", f"--namespace={NAMESPACE}")
        assert client.get(f"{DEPLOYMENTS}/{SERVICE}")["spec"]["replicas"] == 2
        assert _objects(helm, plane) == before
        assert _bundle(plane) == bundle
        assert _budget_is_known(plane), "definitions never go back"
        assert injected(tried(plane, namespace, vllm_pod()))

        since = client.get(DEPLOYMENTS)["metadata"]["resourceVersion"]
        helm("uninstall", RELEASE, f"--namespace={NAMESPACE}")
        assert client.get(CONFIGURATIONS)["items"] == []
        if helm.version == 4:
            # Helm 3 does not know the kind, and takes it last: meanwhile `failurePolicy: Ignore` is what helps.
            configuration = first_deleted_at(plane, CONFIGURATIONS, since)
            for path in (DEPLOYMENTS, ACCOUNTS, f"/api/v1/namespaces/{NAMESPACE}/services"):
                assert configuration < first_deleted_at(plane, path, since), path
        plane.wait_for(lambda: not injected(tried(plane, namespace, vllm_pod())), "end of the calls")
        assert client.get(f"{OURS}/vllmrecommendations")["items"] == recommendations
        assert client.get(SECRET)["data"] == secret

        # Once more: the same authorities, without a restart of the webhook.
        _do(helm, "install", CHART)
        plane.wait_for(lambda: _bundle(plane) == bundle, "authority of before")
        plane.wait_for(lambda: injected(tried(plane, namespace, vllm_pod())), "call of the webhook")
        assert _objects(helm, plane)[VOLUME] == before[VOLUME]
    finally:
        webhook.stop()


def test_older_definitions_that_were_left(helm: Helm, plane: ControlPlane, tmp_path: Path) -> None:
    """Helm leaves those alone that it finds; the Job does not."""
    _do(helm, "install", older_chart(tmp_path), values=BY_HAND)
    helm("uninstall", RELEASE, f"--namespace={NAMESPACE}")
    _do(helm, "install", CHART)
    assert _budget_is_known(plane)
    jobs = f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"
    plane.wait_for(lambda: not plane.client.get(jobs)["items"], "end of the Job")


def test_a_field_that_comes_with_the_upgrade(helm: Helm, plane: ControlPlane, tmp_path: Path) -> None:
    """Can be used in it: the definitions are up to date before anything is applied. Without the Job the field would be
    lost."""
    _do(helm, "install", older_chart(tmp_path), values=BY_HAND)
    _do(helm, "upgrade", CHART, values=LOSS_BUDGET)
    assert plane.client.get(f"{OURS}/vllmpolicies/frugal")["spec"]["lossBudget"] == 0.75


def test_what_somebody_else_has_set(helm: Helm, plane: ControlPlane) -> None:
    """Helm 4 says so and changes nothing unless it is told to; Helm 3 leaves it, whatever the values say."""
    _do(helm, "install", CHART)
    plane.client.patch(AUTOMATION, {"spec": {"vllmOptimize": True}}, fieldManager="somebody")

    def optimized() -> bool:
        return bool(plane.client.get(AUTOMATION)["spec"]["vllmOptimize"])

    if helm.version == 4:
        with pytest.raises(HelmError, match=r"(?s)conflict with \"somebody\".*\.spec\.vllmOptimize"):
            _do(helm, "upgrade", CHART)
        assert optimized()
        _do(helm, "upgrade", CHART, "--force-conflicts")
        assert not optimized()
    else:
        _do(helm, "upgrade", CHART)
        assert optimized()
    # Whose it is can also be said: then it is theirs.
    _do(helm, "upgrade", CHART, values={"clusterAutomation": {"create": False}})
    assert not plane.exists(AUTOMATION)
