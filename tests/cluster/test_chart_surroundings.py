"""The chart where a cluster, or who installs it, has rules of their own."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.chart import CHART, Helm, HelmError
from bench.lab.programs import folder_with

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

OPENSHIFT = "--api-versions=security.openshift.io/v1"
CLOSED: Raw = {"networkPolicy": {"enabled": True, "metricsFrom": [{"podSelector": {"matchLabels": {"app": "prom"}}}]}}
TEMPLATES = {"one": '{{ .Values.two }} "two" it\'s: #3', "two": "{{ fail }}", "three": "3", "four": "on", "five": ""}
HAVE_PODS = ("Deployment", "Job", "Pod")
SERVICE = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""What a Service may be called, of no more than 63 letters."""


@pytest.fixture(scope="module")
def helm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        folder_with("helm")
    return Helm(tmp_path_factory.mktemp("helm"))


def _documents(text: str) -> list[Raw]:
    return [document for document in YAML(typ="safe", pure=True).load_all(StringIO(text)) if document]


def _pods(found: list[Raw]) -> dict[str, Raw]:
    """Every pod or template of one, by its component."""
    pods = [one if one["kind"] == "Pod" else one["spec"]["template"] for one in found if one["kind"] in HAVE_PODS]
    made = {pod["metadata"]["labels"]["app.kubernetes.io/component"]: pod for pod in pods}
    assert set(made) == {"webhook", "recommender", "crds", "test"}
    return made


def _named(value: Any, names: tuple[str, ...]) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in names:
                yield name
            yield from _named(inner, names)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner, names)


def test_openshift_gives_users_and_groups(helm: Helm) -> None:
    """Its `restricted-v2` refuses every other one; who a volume's files belong to it says itself."""
    ids = ("runAsUser", "runAsGroup", "fsGroup")
    plain, there = _pods(_documents(helm.render())), _pods(_documents(helm.render(None, OPENSHIFT)))
    for component, pod in there.items():
        assert list(_named(pod, ids)) == []
        assert pod["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert set(_named(plain[component], ids)) == set(ids if component == "recommender" else ids[:2])


@pytest.mark.parametrize("component", ["webhook", "recommender"])
def test_servers_answer_by_both_families(helm: Helm, component: str) -> None:
    """Pods of a cluster may have no address of IPv4."""
    [container] = _pods(_documents(helm.render()))[component]["spec"]["containers"]
    assert [one for one in container["args"] if one.startswith("--host")] == ["--host=::"]


def test_a_policy_bounds_each_pod(helm: Helm) -> None:
    found = _documents(helm.render(CLOSED))
    policies = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
    for component, pod in _pods(found).items():
        labels = pod["metadata"]["labels"].items()
        [policy] = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels]
        assert policy["policyTypes"] == ["Ingress", "Egress"], component
        assert any({"port": 5353, "protocol": "UDP"} in rule.get("ports", ()) for rule in policy["egress"]), component


def test_the_pod_of_helm_test_reaches_both_servers_and_nothing_else(helm: Helm) -> None:
    found = _documents(helm.render(CLOSED))
    pods = _pods(found)
    [policy] = [one for one in found if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-test")]
    [pod] = [one for one in found if one["kind"] == "Pod"]
    hooks = [one["metadata"]["annotations"] for one in (policy, pod)]
    assert [one["helm.sh/hook"] for one in hooks] == ["test", "test"]
    assert int(hooks[0]["helm.sh/hook-weight"]) < 0, "it is there before the pod"
    assert "ingress" not in policy["spec"]
    *servers, names = policy["spec"]["egress"]
    reached = set()
    for rule in servers:
        [peer], [port] = rule["to"], rule["ports"]
        [component] = [
            name
            for name, one in pods.items()
            if peer["podSelector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
        ]
        [listening] = pods[component]["spec"]["containers"][0]["ports"]
        assert port == {"port": listening["containerPort"]}
        reached.add(component)
    assert reached == {"webhook", "recommender"}
    assert {one["port"] for one in names["ports"]} == {53, 5353}
    assert "to" not in names
    # And they let it in.
    for component in reached:
        [rule] = next(
            one["spec"]["ingress"]
            for one in found
            if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith(f"-{component}")
        )
        assert component == "webhook" or any(
            peer["podSelector"]["matchLabels"].items() <= pods["test"]["metadata"]["labels"].items()
            for peer in rule["from"]
        )
        assert component == "recommender" or "from" not in rule


def test_policies_do_not_meet_pods_of_the_host_network(helm: Helm) -> None:
    """Around the webhook there is none that could not hold, and `helm test` reaches it where it is no pod to them."""
    found = _documents(helm.render({**CLOSED, "webhook": {"hostNetwork": True, "port": 10260}}))
    policies = {
        one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: one["spec"]
        for one in found
        if one["kind"] == "NetworkPolicy"
    }
    assert set(policies) == {"recommender", "crds", "test"}
    assert {"ports": [{"port": 10260}]} in policies["test"]["egress"]
    assert [peer for rule in policies["test"]["egress"] for peer in rule.get("to", ())] == [
        {"podSelector": policies["recommender"]["podSelector"]}
    ]


@pytest.mark.parametrize("values", [{}, CLOSED], ids=["open", "closed"])
def test_a_mesh_may_be_kept_from_pods_that_end(helm: Helm, values: Raw) -> None:
    """Its sidecar would let neither the Job's nor that of `helm test` end; with the servers it may be. What is said of
    pods holds against what is said of everything."""
    no = {"podLabels": {"sidecar.istio.io/inject": "false"}, "podAnnotations": {"linkerd.io/inject": "disabled"}}
    yes = {"podLabels": {"sidecar.istio.io/inject": "true"}, "podAnnotations": {"linkerd.io/inject": "enabled"}}
    everywhere = {"team": "inference", "sidecar.istio.io/inject": "maybe"}
    pods = _pods(_documents(helm.render({**values, "webhook": yes, "crds": no, "commonLabels": everywhere})))
    for component, said in {"webhook": yes, "crds": no, "test": no}.items():
        metadata = pods[component]["metadata"]
        assert {"team": "inference", **said["podLabels"]}.items() <= metadata["labels"].items()
        assert said["podAnnotations"].items() <= metadata["annotations"].items()
    assert pods["recommender"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "maybe"


def test_what_looks_like_a_template_is_none(helm: Helm) -> None:
    part = {"podAnnotations": TEMPLATES, "serviceAccount": {"annotations": TEMPLATES}, "nodeSelector": TEMPLATES}
    dashboard = {"enabled": True, "annotations": TEMPLATES}
    values = {"webhook": part, "recommender": part, "crds": {"podAnnotations": TEMPLATES}}
    found = _documents(helm.render({**values, "metrics": {"dashboard": dashboard}}))
    for component, pod in _pods(found).items():
        assert component == "recommender" or pod["spec"]["nodeSelector"] == TEMPLATES
        annotations = pod["metadata"]["annotations"]
        assert TEMPLATES.items() <= annotations.items()
    for one in found:
        metadata = one["metadata"]
        if one["kind"] == "ConfigMap" or (one["kind"] == "ServiceAccount" and not metadata["name"].endswith("-crds")):
            assert metadata["annotations"] == TEMPLATES


@pytest.mark.parametrize("release", ["team.sizes", "a" * 53, "vllm-rightsizer.eu", f"x{'-' * 50}y"])
def test_a_release_may_have_any_name(helm: Helm, release: str) -> None:
    found = _documents(helm("template", release, str(CHART), "--namespace=sizes"))
    for one in found:
        if one["kind"] in ("Service", "Pod", "Job"):
            assert SERVICE.fullmatch(one["metadata"]["name"])
            assert len(one["metadata"]["name"]) <= 63
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == release


def test_no_service_begins_with_a_digit_before_1_36(helm: Helm) -> None:
    before, since = "--kube-version=1.35.9", "--kube-version=1.36.0-gke.1"
    with pytest.raises(HelmError, match=r"fullnameOverride: .* 7b-vllm-rightsizer "):
        helm("template", "7b", str(CHART), before)
    assert "name: sizes-webhook" in helm("template", "7b", str(CHART), before, "--set=fullnameOverride=sizes")
    assert "name: 7b-vllm-rightsizer-webhook" in helm("template", "7b", str(CHART), since)


def test_no_image_volume_before_1_31(helm: Helm) -> None:
    """There the API server knows no such volume, and makes an empty directory of it."""
    values = {"image": {"registry": "registry.example"}, "vllm": {"injection": {"way": "image-volume"}}}
    with pytest.raises(HelmError, match=r"image volumes from 1\.31 on, and this is v1\.30\.9, .*--kube-version"):
        helm.render(values, "--kube-version=1.30.9")
    for version in ("1.31.0-gke.1", "1.35.0"):
        assert "--injection=image-volume" in helm.render(values, f"--kube-version={version}")


def test_values_of_before_have_no_new_ones(helm: Helm) -> None:
    """`helm upgrade --reuse-values` takes the defaults of the release that is there."""
    lacking = {
        "networkPolicy": {"enabled": True, "dnsPorts": None},
        "crds": {"podLabels": None, "resources": None},
        "webhook": {"port": None, "hostNetwork": None, "serviceAccount": {"create": None}},
        "recommender": {"prometheus": {"url": "http://prometheus:9090", "headersSecret": None}},
        "rbac": None,
    }
    found = _documents(helm.render(lacking))
    assert {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"} >= {
        "vllm-rightsizer-webhook",
        "vllm-rightsizer-recommender",
    }
    [viewers] = [one for one in found if one["metadata"]["name"].endswith("-view")]
    assert viewers["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    webhook = _pods(found)["webhook"]["spec"]
    assert "hostNetwork" not in webhook
    assert webhook["containers"][0]["ports"] == [{"name": "https", "containerPort": 8443}]
    [policy] = [one for one in found if one["kind"] == "NetworkPolicy" and one["metadata"]["name"].endswith("-webhook")]
    assert [{"port": port, "protocol": name} for port in (53, 5353) for name in ("UDP", "TCP")] in [
        rule["ports"] for rule in policy["spec"]["egress"]
    ]


@pytest.mark.parametrize("version", [4, 3])
def test_below_another_chart(tmp_path: Path, version: int) -> None:
    """Whose condition stands among our values, as is usual."""
    folder_with("helm", "helm3")
    above = tmp_path / "above"
    shutil.copytree(CHART, above / "charts" / CHART.name)
    dependency = {"name": "vllm-rightsizer", "version": ">=0", "condition": "vllm-rightsizer.enabled"}
    YAML().dump(
        {"apiVersion": "v2", "name": "above", "version": "1.0.0", "dependencies": [dependency]}, above / "Chart.yaml"
    )
    helm = Helm(tmp_path, version=version)
    assert _documents(helm.render({"vllm-rightsizer": {"enabled": False}}, chart=above)) == []
    found = _documents(helm.render({"vllm-rightsizer": {"enabled": True, "webhook": {"replicas": 3}}}, chart=above))
    assert {one["kind"] for one in found} >= {"Deployment", "Job", "MutatingWebhookConfiguration"}
