"""A recommender with fewer rights than it wants: what it can do without is missing, and what it cannot is named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from ruamel.yaml import YAML

from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.cluster_objects import ClusterObjects
from recommender.telemetry import Telemetry

from .recommenders import MANIFESTS, RULE_OF_CLAIMS
from .single_rights import holds
from .waiting import until

OPTIONAL = ("HorizontalPodAutoscaler", "ScaledObject", "ResourceClaimTemplate")
PLURALS = ("horizontalpodautoscalers", "scaledobjects", "resourceclaimtemplates")


def shipped(without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The rules of the ClusterRole that is shipped, that on claims included, less those on some resources."""
    documents = YAML(typ="safe", pure=True).load_all(MANIFESTS / "recommender-rbac.yaml")
    [rules] = [one["rules"] for one in documents if one["kind"] == "ClusterRole"]
    rules = [*rules, RULE_OF_CLAIMS]
    kept = [{**rule, "resources": [one for one in rule["resources"] if one not in without]} for rule in rules]
    return [rule for rule in kept if rule["resources"]]


def grant(plane: ControlPlane, name: str, rules: list[dict[str, Any]]) -> None:
    group = "rbac.authorization.k8s.io"
    binding = {
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name},
        "subjects": [{"kind": "User", "name": name, "apiGroup": group}],
    }
    for kind, said in (("ClusterRole", {"rules": rules}), ("ClusterRoleBinding", binding)):
        plane.client.apply({"apiVersion": f"{group}/v1", "kind": kind, "metadata": {"name": name}, **said})


@asynccontextmanager
async def reading(
    plane: ControlPlane, name: str, without: tuple[str, ...], **options: bool
) -> AsyncIterator[tuple[ClusterObjects, Telemetry]]:
    rules = shipped(without)
    grant(plane, name, rules)
    # Until then others are refused, too.
    await until(lambda: holds(plane, name, rules))
    telemetry = Telemetry()
    server = await ApiServer.connect(plane.kubeconfig_of(name, plane.user(name)))
    objects = ClusterObjects(server, telemetry, Pace(first_delay=0.05, look_again=0.2), **options)
    try:
        async with objects.following():
            yield objects, telemetry
    finally:
        await server.close()


def refused(objects: ClusterObjects, telemetry: Telemetry) -> set[str]:
    objects.census()
    return {
        sample.labels["kind"]
        for metric in telemetry.registry.collect()
        for sample in metric.samples
        if sample.name == "vllm_rightsizer_recommender_kinds_refused" and sample.value
    }


async def test_what_it_can_do_without(crds: ControlPlane) -> None:
    """It is at work all the same, says so in a metric, and takes it up once it may."""
    async with reading(crds, "without-optional", PLURALS) as (objects, telemetry):
        # An API server may put a watch off that it will take.
        await until(lambda: objects.trouble is None and refused(objects, telemetry) == set(OPTIONAL))
        for kind in OPTIONAL:
            assert objects.list(kind) == []
            # Nobody is to be alarmed by a server that is not heard of.
            assert telemetry.watch_age_seconds.labels(kind)._value.get() < 60
        grant(crds, "without-optional", shipped())
        await until(lambda: objects.trouble is None and not refused(objects, telemetry))


async def test_what_it_needs_is_named(crds: ControlPlane) -> None:
    async with reading(crds, "without-nodes", ("nodes",)) as (objects, telemetry):
        await until(lambda: "grant the verbs" in str(objects.trouble))
        assert 'cannot list resource "nodes"' in str(objects.trouble)
        assert "(grant the verbs list and watch on nodes)" in str(objects.trouble)
        assert not objects.synced
        grant(crds, "without-nodes", shipped())
        await until(lambda: objects.synced and objects.trouble is None)
        assert not refused(objects, telemetry)


async def test_what_it_is_started_without_is_left_alone(crds: ControlPlane) -> None:
    """No right is missed, nothing is refused again and again, and who would write such an object is told why not."""
    left_out = ("configmaps", "resourceclaimtemplates")
    async with reading(crds, "started-without", left_out, plugin_maps=False, gpu_claims=False) as (objects, telemetry):
        await until(lambda: objects.synced and objects.trouble is None)
        assert not refused(objects, telemetry)
        for kind, option in (("ConfigMap", "--no-plugin-maps"), ("ResourceClaimTemplate", "--no-gpu-claims")):
            assert objects.list(kind) == []
            assert objects.get(kind, "chat", "any") is None
            with pytest.raises(PermissionError, match=f"it was started with {option}"):
                objects.apply({"kind": kind, "metadata": {"namespace": "chat", "name": "any"}})
