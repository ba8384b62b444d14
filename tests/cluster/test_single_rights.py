"""Each right of webhook and recommender is needed: without it one thing is said to be missing, and everything else goes
on. `docs/security.md` says the same in a table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane, running
from bench.lab.programs import ROOT
from bench.lab.webhook import MANIFESTS, SERVICE
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.api.claims import claim_template
from recommender.api.owners import BUILT_IN_OWNERS, CUSTOM_OWNERS
from recommender.api.plugin_wheel import plugin_config_map
from recommender.api.recommendations import VLLMRecommendation
from recommender.autoscaling import AUTOSCALERS
from recommender.cluster_objects import (
    AUTOMATION,
    CLAIM_TEMPLATES,
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    PODS,
    POLICIES,
    RECOMMENDATIONS,
    ClusterObjects,
)
from recommender.object_writes import WritePace
from recommender.telemetry import Telemetry
from vllm_plugin.names import API_VERSION
from webhook.cluster_watch import ClusterWatch
from webhook.pairs import Lifetimes
from webhook.secret_certificates import SecretCertificates

from .recommenders import RULE_OF_CLAIMS
from .single_rights import Right, define, holds, rights_of, said, until, without
from .test_recommender_rights import OPTIONAL, PLURALS, grant, refused
from .test_recommender_writes import counted, sized

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]

PACE = Pace(first_delay=0.05, look_again=0.2)
LIFETIMES = Lifetimes(leaf=timedelta(seconds=6), settling=timedelta(seconds=1), skew=timedelta(0))
SETTINGS = ("VLLMPolicy", "AutomatedNamespace", "ClusterAutomation")
AT = "2026-11-01T12:00:00Z"
OF_CERTIFICATES = ("mutatingwebhookconfigurations", "secrets")
KINDS = {
    resource.plural: resource.kind
    for resource in (
        *(PODS, NAMESPACES, NODES, CONFIG_MAPS, CLAIM_TEMPLATES, RECOMMENDATIONS, POLICIES, *AUTOMATION),
        *(*BUILT_IN_OWNERS, *CUSTOM_OWNERS, *AUTOSCALERS),
    )
} | {"events": "Event"}
WRITTEN = ("VLLMRecommendation", *SETTINGS, "ConfigMap", "ResourceClaimTemplate", "Event")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """An API server that has every kind that we follow, those of others too."""
    with running(tmp_path_factory.mktemp("single-rights")) as made:
        made.install_crds(ROOT / "deploy" / "crds")
        define(made)
        yield made


def _rules(component: str, kind: str) -> list[Raw]:
    [found] = [one for one in documents(MANIFESTS / f"{component}-rbac.yaml") if one["kind"] == kind]
    claims = [RULE_OF_CLAIMS] if (component, kind) == ("recommender", "ClusterRole") else []
    return [*found["rules"], *claims]


def _of_reading(component: str) -> list[Right]:
    found = [right for right in rights_of(_rules(component, "ClusterRole")) if right[1] not in OF_CERTIFICATES]
    return [right for right in found if right[0] in ("list", "watch")]


def _user(plane: ControlPlane, component: str, right: Right) -> str:
    name = f"{component}-without-{right[0]}-{right[1]}".replace("/", "-")
    grant(plane, name, without(_rules(component, "ClusterRole"), right))
    return name


def _unread(right: Right) -> set[str]:
    """The kinds that were never heard of."""
    return {KINDS[right[1]]} if right[0] == "list" and right[1] not in PLURALS else set()


@pytest.mark.parametrize("right", _of_reading("webhook"), ids="-".join)
async def test_what_the_webhook_reads(cluster: ControlPlane, right: Right) -> None:
    """All other kinds are read, and followed. What was listed and is not followed is known all the same."""
    name = _user(cluster, "webhook", right)
    server = await ApiServer.connect(cluster.kubeconfig_of(name, cluster.user(name)))
    watch = ClusterWatch(server, PACE)

    def stands() -> tuple[set[Right], set[str], bool]:
        unread = {kind for kind, age in watch.ages().items() if age == math.inf}
        return said(watch.trouble), unread, watch.knowledge is not None

    try:
        async with watch.running():
            await until(lambda: stands() == ({right}, _unread(right), right[0] == "watch"), lambda: watch.trouble)
            assert f"(grant the verbs list and watch on {right[1]}" in str(watch.trouble)
    finally:
        await server.close()


@pytest.mark.parametrize("right", _of_reading("recommender"), ids="-".join)
async def test_what_the_recommender_reads(cluster: ControlPlane, right: Right) -> None:
    """The same; of kinds that it can do without, a metric tells."""
    name = _user(cluster, "recommender", right)
    telemetry = Telemetry()
    server = await ApiServer.connect(cluster.kubeconfig_of(name, cluster.user(name)))
    objects = ClusterObjects(server, telemetry, PACE)
    optional = dict(zip(PLURALS, OPTIONAL, strict=True))
    missing, lacking = (set(), {optional[right[1]]}) if right[1] in optional else ({right}, set())

    def stands() -> tuple[set[Right], set[str], set[str], bool]:
        return said(objects.trouble), refused(objects, telemetry), _never_heard_of(telemetry), objects.synced

    wanted = (missing, lacking, _unread(right), not _unread(right))
    try:
        async with objects.following():
            await until(lambda: stands() == wanted, lambda: (objects.trouble, stands()))
    finally:
        await server.close()


def _never_heard_of(telemetry: Telemetry) -> set[str]:
    return {
        sample.labels["kind"]
        for metric in telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == "vllm_rightsizer_recommender_watch_age_seconds" and sample.value == math.inf
    }


def _of_writing() -> list[Right]:
    return [right for right in rights_of(_rules("recommender", "ClusterRole")) if right[0] not in ("list", "watch")]


@pytest.mark.parametrize("right", _of_writing(), ids="-".join)
async def test_what_the_recommender_writes(
    cluster: ControlPlane, caplog: pytest.LogCaptureFixture, right: Right
) -> None:
    """It goes through everything that it ever writes. What it may not write waits; all other kinds are written."""
    name = _user(cluster, "recommender", right)
    namespace = cluster.namespace(name)
    await until(
        lambda: holds(cluster, name, without(_rules("recommender", "ClusterRole"), right)),
        lambda: "rights that do not hold yet",
    )
    for kind in SETTINGS:
        metadata = {"name": _setting(kind, namespace)}
        cluster.client.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": {}})
    telemetry = Telemetry()
    server = await ApiServer.connect(cluster.kubeconfig_of(name, cluster.user(name)))
    objects = ClusterObjects(server, telemetry, PACE, WritePace(first_delay=0.05, try_again=0.2), "test")
    own = KINDS[right[1].partition("/")[0]]
    # Events tell of recommendations that were written.
    others = [kind for kind in WRITTEN if kind != own and (kind, own) != ("Event", "VLLMRecommendation")]

    def settled() -> bool:
        waiting = telemetry.registry.get_sample_value("vllm_rightsizer_recommender_object_writes_waiting")
        return bool(said(caplog.text)) or not waiting

    def outcomes() -> list[float]:
        return [counted(telemetry, outcome, kind) for kind in others for outcome in ("written", "refused")]

    try:
        async with objects.following(), objects.writing(server):
            await until(lambda: objects.synced, lambda: objects.trouble)
            for asked in _everything(objects, namespace, right):
                # What is deleted must have been seen before.
                await until(asked, lambda: objects.trouble)
                await until(settled, lambda: (objects.trouble, caplog.text))
            await until(
                lambda: bool(said(caplog.text)) and all(outcomes()[::2]), lambda: (others, outcomes(), caplog.text)
            )
            assert not any(outcomes()[1::2]), caplog.text
    finally:
        await server.close()
        cluster.client.delete(f"/apis/{API_VERSION}/clusterautomations/default")
    assert said(caplog.text) == {right}


def _setting(kind: str, namespace: str) -> str:
    """What the object of that kind is called."""
    return "default" if kind == "ClusterAutomation" else namespace


def _everything(objects: ClusterObjects, namespace: str, missing: Right) -> Iterator[Callable[[], bool]]:
    """Sizes that change to and fro, of which Events tell twice; what is said of settings; the plugin; a claim that
    comes and goes, where it may come."""
    for kv_bytes in (4 << 30, 2 << 30, 4 << 30, 2 << 30, 4 << 30):
        yield partial(objects.apply, sized(namespace, kv_bytes))
    valid = {"type": "Valid", "status": "True", "reason": "Valid", "message": namespace, "lastTransitionTime": AT}
    for kind in SETTINGS:
        setting = objects.get(kind, None, _setting(kind, namespace))
        assert setting is not None
        yield partial(objects.apply_status, setting | {"status": {"conditions": [valid]}})
    yield partial(objects.apply, plugin_config_map(namespace))
    template = claim_template(VLLMRecommendation.from_json(sized(namespace)), 1 << 30, 1)
    yield partial(objects.apply, template)
    if missing != ("create", "resourceclaimtemplates"):
        yield partial(objects.delete, "ResourceClaimTemplate", namespace, template["metadata"]["name"])
    yield partial(objects.delete, "VLLMRecommendation", namespace, sized(namespace)["metadata"]["name"])


def _of_certificates() -> list[Right]:
    own = [rule for rule in _rules("webhook", "ClusterRole") if rule["resources"] == ["mutatingwebhookconfigurations"]]
    return [*rights_of(own), *rights_of(_rules("webhook", "Role"))]


@pytest.mark.parametrize("right", _of_certificates(), ids="-".join)
async def test_what_the_webhooks_certificates_need(
    cluster: ControlPlane, caplog: pytest.LogCaptureFixture, right: Right
) -> None:
    """They are made, published and renewed; what is refused stands in the log, and is why it does not get ready where
    it has none that serves. What it knows of the cluster it knows all the same."""
    name = cluster.namespace(f"without-{right[0]}-{right[1]}")
    _configuration(cluster, name)
    # Rules on Secrets hold everywhere here, which makes no difference to what is refused.
    rules = [rule for kind in ("ClusterRole", "Role") for rule in _named(without(_rules("webhook", kind), right), name)]
    grant(cluster, name, rules)
    await until(lambda: holds(cluster, name, rules), lambda: "rights that do not hold yet")
    server = await ApiServer.connect(cluster.kubeconfig_of(name, cluster.user(name)))
    certificates = SecretCertificates(server, name, f"{name}-tls", name, (f"{name}.svc",), LIFETIMES, PACE)
    watch = ClusterWatch(server, PACE)
    try:
        async with certificates.running(), watch.running():
            await until(lambda: bool(said(caplog.text)), lambda: (certificates.trouble, caplog.text))
            if right != ("watch", "secrets"):
                # Without that watch the Secret is read again and again, and everything goes on.
                await until(lambda: certificates.trouble is not None, lambda: caplog.text)
            await until(lambda: watch.knowledge is not None and watch.trouble is None, lambda: watch.trouble)
    finally:
        await server.close()
    assert said(caplog.text) == {right}


def _configuration(plane: ControlPlane, name: str) -> None:
    """One of that name, which is called for nothing."""
    [shipped] = documents(MANIFESTS / "webhook-configuration.yaml")
    shipped["metadata"] = {"name": name}
    shipped["webhooks"][0] |= {"name": f"{name}.example.test"}
    shipped["webhooks"][0]["clientConfig"]["service"]["namespace"] = name
    shipped["webhooks"][0]["namespaceSelector"]["matchLabels"] = {"nowhere": "at-all"}
    plane.client.apply(shipped)


def _named(rules: list[Raw], name: str) -> list[Raw]:
    names = {"vllm-rightsizer": name, f"{SERVICE}-tls": f"{name}-tls"}
    return [
        rule | ({"resourceNames": [names[one] for one in rule["resourceNames"]]} if "resourceNames" in rule else {})
        for rule in rules
    ]
