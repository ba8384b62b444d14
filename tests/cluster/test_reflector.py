"""The reflector on a real API server: it ends with what the server holds, whatever happens in between."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace, Reflector, Selection
from recommender.api.apiserver.resources import Resource

from .waiting import until

CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
GADGETS = Resource("example.test", "v1", "gadgets", "Gadget")
PACE = Pace(page=30, first_delay=0.05, longest_delay=0.5, look_again=0.2)
GADGET_DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.example.test"},
    "spec": {
        "group": "example.test",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget", "singular": "gadget", "listKind": "GadgetList"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def value_of(raw: dict[str, Any]) -> str | None:
    value = (raw.get("data") or {}).get("value")
    return None if value is None else str(value)


@asynccontextmanager
async def following(
    kubeconfig: Path, resource: Resource, keep: Callable[[dict[str, Any]], Any], **options: Any
) -> AsyncIterator[tuple[Reflector[Any], list[dict[str, str]]]]:
    """The reflector at work, and the queries of its lists."""
    server = await ApiServer.connect(kubeconfig)
    lists: list[dict[str, str]] = []
    request = server.request

    async def noted(method: str, path: str, **how: Any) -> Any:
        lists.append(dict(how["query"]))
        return await request(method, path, **how)

    server.request = noted  # type: ignore[method-assign]  # the requests are real; they are only counted
    reflector: Reflector[Any] = Reflector(server, resource, keep, pace=PACE, **options)
    task = asyncio.create_task(reflector.run())
    try:
        yield reflector, lists
    finally:
        task.cancel()
        await server.close()


def put(plane: ControlPlane, namespace: str, name: str, value: str) -> None:
    plane.client.http.put(
        f"/api/v1/namespaces/{namespace}/configmaps/{name}", json={"metadata": {"name": name}, "data": {"value": value}}
    ).raise_for_status()


def make(plane: ControlPlane, namespace: str, name: str, value: str) -> None:
    plane.client.create(
        f"/api/v1/namespaces/{namespace}/configmaps", {"metadata": {"name": name}, "data": {"value": value}}
    )


def held(plane: ControlPlane, namespace: str) -> dict[tuple[str, str], str]:
    items = plane.client.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]
    values = {(namespace, item["metadata"]["name"]): value_of(item) for item in items}
    return {key: value for key, value in values.items() if value is not None}


async def test_twenty_pages_of_objects_and_a_restart(control_plane: ControlPlane) -> None:
    namespace = control_plane.namespace("twenty-pages")
    for number in range(600):
        make(control_plane, namespace, f"m{number:03}", "first")
    selection = Selection(namespace=namespace)
    async with following(control_plane.kubeconfig, CONFIG_MAPS, value_of, selection=selection) as (reflector, lists):
        await until(lambda: reflector.synced)
        assert len(reflector.objects) == 600
        # Where a controller manager runs, its root certificate lies there too.
        listed = control_plane.client.get(f"/api/v1/namespaces/{namespace}/configmaps")["items"]
        assert len(lists) == math.ceil(len(listed) / PACE.page)
        assert reflector.age_seconds < 60

        def changes(round_: int) -> None:
            for number in range(round_, 300, 3):
                put(control_plane, namespace, f"m{number:03}", f"round {round_}")
                control_plane.client.delete(f"/api/v1/namespaces/{namespace}/configmaps/m{599 - number:03}")
            make(control_plane, namespace, f"new-{round_}", "new")

        for round_ in range(3):
            await asyncio.to_thread(changes, round_)
            if round_ == 1:
                # Not in a thread: the server would end with it.
                control_plane.restart_api_server()
        there = held(control_plane, namespace)
        assert len(there) == 303
        await until(lambda: dict(reflector.objects) == there)


async def test_a_version_that_etcd_has_forgotten(control_plane: ControlPlane) -> None:
    namespace = control_plane.namespace("compacted")
    for name in ("stays", "changes", "goes"):
        make(control_plane, namespace, name, "first")
    selection = Selection(namespace=namespace)
    async with following(control_plane.kubeconfig, CONFIG_MAPS, value_of, selection=selection) as (reflector, lists):
        await until(lambda: reflector.synced)
        before = len(lists)
        control_plane.stop_api_server()
        await until(lambda: reflector.trouble is not None)
        # While nobody is told, the version that the reflector knows is left behind, and forgotten.
        etcd = f"http://127.0.0.1:{control_plane._etcd_port}/v3/kv"
        for value in ("YQ==", "Yg=="):
            httpx.post(f"{etcd}/put", json={"key": "L3VucmVsYXRlZA==", "value": value}).raise_for_status()
        revision = httpx.post(f"{etcd}/range", json={"key": "AA=="}).json()["header"]["revision"]
        compaction = {"revision": revision, "physical": True}
        httpx.post(f"{etcd}/compaction", json=compaction, timeout=60).raise_for_status()
        control_plane.start_api_server()
        put(control_plane, namespace, "changes", "second")
        control_plane.client.http.delete(f"/api/v1/namespaces/{namespace}/configmaps/goes")
        there = held(control_plane, namespace)
        assert there == {(namespace, "stays"): "first", (namespace, "changes"): "second"}
        await until(lambda: dict(reflector.objects) == there)
        assert len(lists) > before


async def test_a_kind_that_comes_and_goes(control_plane: ControlPlane) -> None:
    client = control_plane.client
    definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    namespace = control_plane.namespace("gadgets")
    async with following(control_plane.kubeconfig, GADGETS, value_of) as (reflector, _):
        await until(lambda: reflector.trouble is not None)
        assert "the cluster has no gadgets.example.test" in str(reflector.trouble)
        assert not reflector.synced
        client.create(definitions, GADGET_DEFINITION)
        await until(lambda: reflector.synced)
        gadget = {"apiVersion": "example.test/v1", "kind": "Gadget", "metadata": {"name": "g"}, "data": {"value": "1"}}
        client.create(GADGETS.path(namespace), gadget)
        await until(lambda: dict(reflector.objects) == {(namespace, "g"): "1"})
        client.http.delete(f"{definitions}/gadgets.example.test").raise_for_status()
        await until(lambda: not reflector.objects and not reflector.synced)


async def test_what_rbac_refuses_is_said_and_taken_up_once_allowed(control_plane: ControlPlane) -> None:
    kubeconfig = control_plane.kubeconfig_of("reader", control_plane.user("reader"))
    async with following(kubeconfig, DEPLOYMENTS, value_of, metadata_only=True) as (reflector, _):
        await until(lambda: reflector.trouble is not None)
        assert 'User "reader" cannot list resource "deployments" in API group "apps"' in str(reflector.trouble)
        assert not reflector.synced
        rules = [{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "watch"]}]
        roles = "/apis/rbac.authorization.k8s.io/v1/clusterrole"
        control_plane.client.create(f"{roles}s", {"metadata": {"name": "reader"}, "rules": rules})
        binding = {
            "metadata": {"name": "reader"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "reader"},
            "subjects": [{"kind": "User", "name": "reader", "apiGroup": "rbac.authorization.k8s.io"}],
        }
        control_plane.client.create(f"{roles}bindings", binding)
        await until(lambda: reflector.synced and reflector.trouble is None)


@pytest.mark.parametrize("late", [False, True])
async def test_metadata_alone(control_plane: ControlPlane, late: bool) -> None:
    """Whether it was there before or comes by the watch, no spec crosses the network."""
    namespace = control_plane.namespace(f"metadata-{late}".lower())
    seen: list[dict[str, Any]] = []

    def keep(raw: dict[str, Any]) -> str:
        seen.append(raw)
        return str((raw["metadata"].get("annotations") or {}).get("a"))

    def deployment() -> None:
        template = {"metadata": {"labels": {"x": "y"}}, "spec": {"containers": [{"name": "main", "image": "i"}]}}
        spec = {"replicas": 0, "selector": {"matchLabels": {"x": "y"}}, "template": template}
        control_plane.client.create(
            DEPLOYMENTS.path(namespace), {"metadata": {"name": "d", "annotations": {"a": "b"}}, "spec": spec}
        )

    if not late:
        deployment()
    selection = Selection(namespace=namespace)
    async with following(control_plane.kubeconfig, DEPLOYMENTS, keep, metadata_only=True, selection=selection) as (
        reflector,
        _,
    ):
        await until(lambda: reflector.synced)
        if late:
            deployment()
        await until(lambda: dict(reflector.objects) == {(namespace, "d"): "b"})
    assert {raw["kind"] for raw in seen} == {"PartialObjectMetadata"}
    assert all("spec" not in raw for raw in seen)
