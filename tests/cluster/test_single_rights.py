"""Each right of the ClusterRoles and Roles that are shipped is needed: without it one thing is said to be missing, and
nothing else is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from bench.lab.client import documents
from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import MANIFESTS, SERVICE
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.api.claims import claim_template
from recommender.api.owners import CUSTOM_OWNERS
from recommender.api.plugin_wheel import plugin_config_map
from recommender.api.recommendations import VLLMRecommendation
from recommender.autoscaling import AUTOSCALERS
from recommender.cluster_objects import ClusterObjects
from recommender.object_writes import WritePace
from recommender.telemetry import Telemetry
from vllm_plugin.names import API_VERSION
from webhook.cluster_watch import ClusterWatch
from webhook.pairs import Lifetimes
from webhook.secret_certificates import SecretCertificates

from .test_recommender_rights import OPTIONAL, PLURALS, grant, refused
from .test_recommender_writes import sized

pytestmark = pytest.mark.e2e

Raw = dict[str, Any]
Right = tuple[str, str]
"""Verb and resource."""

PACE = Pace(first_delay=0.05, look_again=0.2)
LIFETIMES = Lifetimes(leaf=timedelta(seconds=6), settling=timedelta(seconds=1), skew=timedelta(0))
NOT_HERE = {resource.plural for resource in (*CUSTOM_OWNERS, *AUTOSCALERS)} - {"horizontalpodautoscalers"}
"""Kinds of others, of which this API server has none: there is nothing to be watched."""
SETTINGS = ("VLLMPolicy", "AutomatedNamespace", "ClusterAutomation")
AT = "2026-11-01T12:00:00Z"
OF_CERTIFICATES = ("mutatingwebhookconfigurations", "secrets")
REFUSAL = re.compile(r'cannot (\w+) resource "([^"]+)"')


def _rules(component: str, kind: str) -> list[Raw]:
    [found] = [one for one in documents(MANIFESTS / f"{component}-rbac.yaml") if one["kind"] == kind]
    return list(found["rules"])


def _rights(rules: list[Raw]) -> Iterator[Right]:
    for rule in rules:
        for resource in rule["resources"]:
            yield from ((verb, resource) for verb in rule["verbs"])


def _without(rules: list[Raw], right: Right) -> list[Raw]:
    verb, resource = right
    kept = []
    for rule in rules:
        others = [one for one in rule["resources"] if one != resource]
        verbs = [one for one in rule["verbs"] if one != verb]
        kept.append(rule | {"resources": others})
        kept.append(rule | {"resources": [one for one in rule["resources"] if one == resource], "verbs": verbs})
    return [rule for rule in kept if rule["resources"] and rule["verbs"]]


def _of_reading(component: str) -> list[Right]:
    """Of what is followed, those that can be seen to be missing on this API server."""
    found = [right for right in _rights(_rules(component, "ClusterRole")) if right[1] not in OF_CERTIFICATES]
    return [right for right in found if right[0] == "list" or (right[0] == "watch" and right[1] not in NOT_HERE)]


def _said(trouble: str | None) -> set[Right]:
    return {(verb, resource) for verb, resource in REFUSAL.findall(trouble or "")}


async def _until(holds: Callable[[], bool], now: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(20):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"at last: {now()}")


def _user(plane: ControlPlane, component: str, right: Right) -> str:
    name = f"{component}-without-{right[0]}-{right[1]}".replace("/", "-")
    grant(plane, name, _without(_rules(component, "ClusterRole"), right))
    return name


@pytest.mark.parametrize("right", _of_reading("webhook"), ids="-".join)
async def test_what_the_webhook_reads(crds: ControlPlane, right: Right) -> None:
    name = _user(crds, "webhook", right)
    server = await ApiServer.connect(crds.kubeconfig_of(name, crds.user(name)))
    watch = ClusterWatch(server, PACE)
    try:
        async with watch.running():
            await _until(lambda: _said(watch.trouble) == {right}, lambda: watch.trouble)
            assert f"(grant the verbs list and watch on {right[1]}" in str(watch.trouble)
    finally:
        await server.close()


@pytest.mark.parametrize("right", _of_reading("recommender"), ids="-".join)
async def test_what_the_recommender_reads(crds: ControlPlane, right: Right) -> None:
    """Of kinds that it can do without, a metric tells."""
    name = _user(crds, "recommender", right)
    telemetry = Telemetry()
    server = await ApiServer.connect(crds.kubeconfig_of(name, crds.user(name)))
    objects = ClusterObjects(server, telemetry, PACE)
    optional = dict(zip(PLURALS, OPTIONAL, strict=True))
    missing, lacking = (set(), {optional[right[1]]}) if right[1] in optional else ({right}, set())
    try:
        async with objects.following():
            await _until(
                lambda: _said(objects.trouble) == missing and refused(objects, telemetry) == lacking,
                lambda: (objects.trouble, refused(objects, telemetry)),
            )
    finally:
        await server.close()


def _of_writing() -> list[Right]:
    return [right for right in _rights(_rules("recommender", "ClusterRole")) if right[0] not in ("list", "watch")]


@pytest.mark.parametrize("right", _of_writing(), ids="-".join)
async def test_what_the_recommender_writes(crds: ControlPlane, caplog: pytest.LogCaptureFixture, right: Right) -> None:
    """It goes through everything that it ever writes, up to what it may not."""
    name = _user(crds, "recommender", right)
    namespace = crds.namespace(name)
    rules = _without(_rules("recommender", "ClusterRole"), right)
    await _until(lambda: _allowed(crds, name, rules), lambda: "rights that do not hold yet")
    for kind in SETTINGS:
        metadata = {"name": _setting(kind, namespace)}
        crds.client.apply({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": {}})
    telemetry = Telemetry()
    server = await ApiServer.connect(crds.kubeconfig_of(name, crds.user(name)))
    objects = ClusterObjects(server, telemetry, PACE, WritePace(first_delay=0.05, try_again=0.2), "test")

    def settled() -> bool:
        waiting = telemetry.registry.get_sample_value("vllm_rightsizer_recommender_object_writes_waiting")
        return bool(_said(caplog.text)) or not waiting

    try:
        async with objects.following(), objects.writing(server):
            await _until(lambda: objects.synced, lambda: objects.trouble)
            for asked in _everything(objects, namespace):
                # What is deleted must have been seen before.
                await _until(asked, lambda: objects.trouble)
                await _until(settled, lambda: (objects.trouble, caplog.text))
                if _said(caplog.text):
                    break
    finally:
        await server.close()
        crds.client.delete(f"/apis/{API_VERSION}/clusterautomations/default")
    assert _said(caplog.text) == {right}


def _setting(kind: str, namespace: str) -> str:
    """What the object of that kind is called."""
    return "default" if kind == "ClusterAutomation" else namespace


def _everything(objects: ClusterObjects, namespace: str) -> Iterator[Callable[[], bool]]:
    """Sizes that change to and fro, of which Events tell twice; what is said of settings; the plugin; a claim that
    comes and goes."""
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
    yield partial(objects.delete, "ResourceClaimTemplate", namespace, template["metadata"]["name"])
    yield partial(objects.delete, "VLLMRecommendation", namespace, sized(namespace)["metadata"]["name"])


def _of_certificates() -> list[Right]:
    own = [rule for rule in _rules("webhook", "ClusterRole") if rule["resources"] == ["mutatingwebhookconfigurations"]]
    return [*_rights(own), *_rights(_rules("webhook", "Role"))]


@pytest.mark.parametrize("right", _of_certificates(), ids="-".join)
async def test_what_the_webhooks_certificates_need(
    crds: ControlPlane, caplog: pytest.LogCaptureFixture, right: Right
) -> None:
    """They are made, published and renewed; what is refused stands in the log, and is why it does not get ready where
    it has none that serves."""
    name = crds.namespace(f"without-{right[0]}-{right[1]}")
    _configuration(crds, name)
    cluster, own = (_named(_without(_rules("webhook", kind), right), name) for kind in ("ClusterRole", "Role"))
    # Rules on Secrets hold everywhere here, which makes no difference to what is refused.
    grant(crds, name, [*cluster, *own])
    await _until(lambda: _allowed(crds, name, [*cluster, *own]), lambda: "rights that do not hold yet")
    server = await ApiServer.connect(crds.kubeconfig_of(name, crds.user(name)))
    certificates = SecretCertificates(server, name, f"{name}-tls", name, (f"{name}.svc",), LIFETIMES, PACE)
    try:
        async with certificates.running():
            await _until(lambda: bool(_said(caplog.text)), lambda: (certificates.trouble, caplog.text))
            if right != ("watch", "secrets"):
                # Without that watch the Secret is read again and again, and everything goes on.
                await _until(lambda: certificates.trouble is not None, lambda: caplog.text)
    finally:
        await server.close()
    assert _said(caplog.text) == {right}


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
    for rule in rules:
        rule |= {"resourceNames": [names[one] for one in rule["resourceNames"]]} if "resourceNames" in rule else {}
    return rules


def _allowed(plane: ControlPlane, name: str, rules: list[Raw]) -> bool:
    """Whether the API server knows of all these rights of the user of that name."""
    for rule in rules:
        for verb, resource in _rights([rule]):
            [named] = rule.get("resourceNames", [""])
            attributes = {"group": rule["apiGroups"][0], "resource": resource, "verb": verb, "name": named}
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {"user": name, "resourceAttributes": attributes},
            }
            answer = plane.client.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
            if not answer["status"]["allowed"]:
                return False
    return True
