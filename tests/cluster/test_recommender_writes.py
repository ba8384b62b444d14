"""What the recommender writes to a real API server: what holds, once, whoever else writes or refuses."""

from __future__ import annotations

import copy
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.lab.control_plane import ControlPlane
from recommender.api.apiserver.connection import ApiServer
from recommender.api.apiserver.reflector import Pace
from recommender.api.plugin_wheel import plugin_config_map, plugin_map_name
from recommender.api.workloads import WorkloadRef
from recommender.cluster_objects import ClusterObjects
from recommender.object_writes import WritePace
from recommender.telemetry import Telemetry

from .pods import recommendation, vllm_pod
from .recommenders import MANIFESTS, events_of, install, kubeconfig, path_of
from .waiting import until

KIND = "VLLMRecommendation"
LLAMA = WorkloadRef("apps", "Deployment", "llama")
ROLE = "/apis/rbac.authorization.k8s.io/v1/clusterroles/vllm-rightsizer-recommender"


@asynccontextmanager
async def working(plane: ControlPlane, folder: Path) -> AsyncIterator[tuple[ClusterObjects, Telemetry]]:
    """With the rights that are shipped."""
    install(plane)
    telemetry = Telemetry()
    server = await ApiServer.connect(kubeconfig(plane, folder))
    pace = WritePace(first_delay=0.05, try_again=0.2)
    objects = ClusterObjects(server, telemetry, Pace(first_delay=0.05, look_again=0.2), pace, "test")
    try:
        async with objects.following(), objects.writing(server):
            await until(lambda: objects.synced)
            yield objects, telemetry
    finally:
        await server.close()


def sized(namespace: str, kv_bytes: int = 4 << 30) -> dict[str, Any]:
    raw = recommendation(namespace, LLAMA, vllm_pod()).to_json()
    raw["status"]["target"]["kvBytes"] = kv_bytes
    return raw


def counted(telemetry: Telemetry, outcome: str, kind: str = KIND) -> float:
    name = "vllm_rightsizer_recommender_object_writes_total"
    return telemetry.registry.get_sample_value(name, {"kind": kind, "outcome": outcome}) or 0.0


async def test_what_is_written_is_read_back_and_written_once(crds: ControlPlane, tmp_path: Path) -> None:
    namespace = crds.namespace("written-once")
    path = path_of(namespace, LLAMA)
    async with working(crds, tmp_path) as (objects, telemetry):
        made = sized(namespace)
        name = made["metadata"]["name"]
        assert objects.apply(made)
        assert objects.get(KIND, namespace, name) == made
        assert [one["metadata"]["name"] for one in objects.list(KIND, namespace)] == [name]
        assert not objects.apply(made)
        await until(lambda: counted(telemetry, "written") == 1)
        stored = crds.client.get(path)
        assert stored["status"] == made["status"]
        read = objects.get(KIND, namespace, name)
        assert read is not None
        assert read["metadata"]["uid"] == stored["metadata"]["uid"]
        # Also once the watch has shown it, floats that Go writes as whole numbers included.
        assert not objects.apply_status(made)
        await until(lambda: objects._ahead is not None and not objects._ahead.keys(KIND))
        assert not objects.apply_status(made)
        assert not objects.apply_status({**made, "metadata": {"name": "nobody", "namespace": namespace}})

        # Somebody deletes it: the next word makes it again.
        crds.client.delete(path)
        await until(lambda: objects.get(KIND, namespace, name) is None)
        assert objects.apply(made)
        await until(lambda: crds.exists(path))
        await until(lambda: counted(telemetry, "written") == 2)

        assert objects.apply(plugin_config_map(namespace))
        await until(lambda: objects.get("ConfigMap", namespace, plugin_map_name()) is not None)
        assert not objects.apply(plugin_config_map(namespace))


async def test_fields_that_others_wrote(crds: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Ours are taken over, once and with a word; what is not ours stays."""
    namespace = crds.namespace("taken-over")
    path = path_of(namespace, LLAMA)
    made = sized(namespace)
    theirs = {**made, "spec": {**made["spec"], "paused": True}}
    crds.client.patch(path, theirs, "apply", fieldManager="somebody")
    other = {**made, "status": {"fingerprint": "theirs"}}
    del other["spec"]
    crds.client.patch(f"{path}/status", other, "apply", fieldManager="somebody")
    async with working(crds, tmp_path) as (objects, telemetry):
        with caplog.at_level(logging.WARNING):
            assert objects.apply_status(made)
            await until(lambda: counted(telemetry, "written") == 1)
        assert counted(telemetry, "conflict") == 1
        assert "somebody" in caplog.text
        stored = crds.client.get(path)
        assert stored["status"] == made["status"]
        assert stored["spec"]["paused"] is True
        # As where its status cannot be read, and it is written from the ground up.
        assert objects.apply(sized(namespace, 2 << 30))
        await until(lambda: counted(telemetry, "written") == 2)
        assert crds.client.get(path)["spec"] == theirs["spec"]


async def test_an_api_server_that_refuses_writes(
    crds: ControlPlane, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What holds goes on in memory, and is written once it may be."""
    namespace = crds.namespace("refused")
    path = path_of(namespace, LLAMA)
    async with working(crds, tmp_path) as (objects, telemetry):
        role = crds.client.get(ROLE)
        bound = copy.deepcopy(role)
        bound["rules"] = [rule for rule in role["rules"] if "patch" not in rule["verbs"]]
        crds.client.update(ROLE, bound)
        try:
            sizes = itertools.count(1 << 20)
            # RBAC takes effect a moment later.
            await until(lambda: objects.apply(sized(namespace, next(sizes))) and counted(telemetry, "refused"))
            assert f"{KIND} {namespace}/" in str(objects.trouble)
            assert "recommender-rbac.yaml" in str(objects.trouble)
            newest = sized(namespace, 2 << 30)
            assert objects.apply(newest)
            assert objects.get(KIND, namespace, newest["metadata"]["name"]) == newest
            # It is tried, and refused like the others.
            before = counted(telemetry, "refused")
            await until(lambda: counted(telemetry, "refused") > before)
            assert not crds.exists(path) or crds.client.get(path)["status"] != newest["status"]
        finally:
            crds.client.apply_files(MANIFESTS / "recommender-rbac.yaml")
        await until(lambda: crds.exists(path) and crds.client.get(path).get("status") == newest["status"])
        await until(lambda: objects.trouble is None)
    assert caplog.text.count(f"{namespace}/{newest['metadata']['name']} cannot be written") == 1


async def test_changes_are_told_once_and_counted_up(crds: ControlPlane, tmp_path: Path) -> None:
    namespace = crds.namespace("told")
    async with working(crds, tmp_path) as (objects, telemetry):
        for number, kv_bytes in enumerate([4, 2, 4, 2], start=1):
            objects.apply(sized(namespace, kv_bytes << 30))
            await until(lambda number=number: counted(telemetry, "written") == number)
        await until(lambda: counted(telemetry, "written", "Event") == 4)
        told = {one["message"]: one for one in events_of(crds, namespace, sized(namespace)["metadata"]["name"])}
        assert len(told) == 3
        again = told["from 4.00 GiB to 4.00 GiB of KV cache"]
        assert again["series"]["count"] == 2
        assert again["reason"] == "RecommendationChanged"
        assert again["involvedObject"]["kind"] == KIND
    # Another recommender, or this one after a restart, finds its own events there.
    async with working(crds, tmp_path) as (objects, telemetry):
        objects.apply(sized(namespace, 4 << 30))
        await until(lambda: counted(telemetry, "written", "Event") == 1)
        assert len(events_of(crds, namespace, sized(namespace)["metadata"]["name"])) == 3
