"""The examples on a real API server: every object is one that it takes, every pod comes out of admission as it should,
and vLLM's own parser ends with the size that was recommended."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from example_pods import (
    EXAMPLES,
    FILES,
    Raw,
    Row,
    check,
    containers_in,
    documents,
    objects_of,
    pods_from,
    recommendation,
    row_of,
)

from bench.lab.control_plane import ControlPlane
from bench.lab.webhook import Webhook
from bench.parsing import SizesParser
from vllm_plugin.names import ANNOTATION_APPLIED, ANNOTATION_EXCLUDE, ANNOTATION_SKIPPED, API_VERSION
from webhook.detection import Engine, detect

from .pods import KV_BYTES, OPTED_IN, tried, without_server_fields

BUILT_IN = ("ConfigMap", "Deployment", "StatefulSet", "CronJob", "ResourceClaimTemplate")
_SAME_NAME = re.compile("duplicate port name .*rightsizer")
"""The API server's remark on the ports of two engines, which monitors find by one name."""
STOPPED = {"Deployment": {"replicas": 0}, "StatefulSet": {"replicas": 0}, "CronJob": {"suspend": True}}
"""Nobody is to make pods of them: the tests do."""


@pytest.fixture(scope="module")
def namespace(webhook: Webhook) -> str:
    return webhook.plane.namespace("examples", OPTED_IN)


@pytest.fixture(scope="module")
def parser() -> SizesParser:
    return SizesParser()


def _made(plane: ControlPlane, namespace: str, file: str) -> Iterator[tuple[str, Raw]]:
    """The example's pods, after its objects and a recommendation for each engine are on the API server.

    Of kinds that it does not have, what stands on the workload is put on the pod.
    """
    annotations: Raw = {}
    for obj in objects_of(file):
        if obj["kind"] in BUILT_IN:
            obj["metadata"]["namespace"] = namespace
            obj.get("spec", {}).update(STOPPED.get(obj["kind"], {}))
            path = plane.client.collection(obj["apiVersion"], obj["kind"], namespace)
            plane.client.create(path, obj, fieldValidation="Strict")
            assert plane.client.warnings == []
        else:
            annotations |= obj["metadata"].get("annotations") or {}
    path = f"/apis/{API_VERSION}/namespaces/{namespace}/vllmrecommendations"
    for place, pod in pods_from(file):
        pod["metadata"]["annotations"] = annotations | (pod["metadata"].get("annotations") or {})
        # The volume of a token would have another name each time.
        pod["spec"]["automountServiceAccountToken"] = False
        pod["metadata"]["name"] = "example"
        for container in containers_in(pod):
            if row_of(file, place, container).form.is_vllm:
                # The recommender sees pods with all that an API server has filled in.
                made = recommendation(_without_admission(plane, namespace, pod), container, namespace)
                stored = plane.client.create(path, made)
                plane.client.update(f"{path}/{made['metadata']['name']}/status", stored | {"status": made["status"]})
        yield place, pod


@pytest.mark.parametrize("file", FILES)
def test_admitted(webhook: Webhook, namespace: str, parser: SizesParser, file: str, tmp_path: Path) -> None:
    plane = webhook.plane
    for place, pod in list(_made(plane, namespace, file)):
        rows = {name: row_of(file, place, name) for name in containers_in(pod)}
        before = _without_admission(plane, namespace, pod)

        engines = [name for name, row in rows.items() if row.form.is_vllm]

        def is_sized(pod: Raw = pod, engines: list[str] = engines) -> bool:
            annotations = tried(plane, namespace, pod)["metadata"].get("annotations") or {}
            return all(f'"{name}"' in annotations.get(ANNOTATION_APPLIED, "") for name in engines)

        plane.wait_for(is_sized, f"sizes in {', '.join(engines)} of {place}")
        after = tried(plane, namespace, pod)
        assert [said for said in plane.client.warnings if not _SAME_NAME.search(said)] == []
        assert ANNOTATION_SKIPPED not in (after["metadata"].get("annotations") or {})
        for name, row in rows.items():
            check(containers_in(before)[name], containers_in(after)[name], row)
        for engine in detect(after).engines:
            if rows[engine.name].form.flags:
                _check_parsed(parser, after, engine, rows[engine.name], tmp_path)
        again = tried(plane, namespace, without_server_fields(after) | {"metadata": _kept(after)})
        assert without_server_fields(again) == without_server_fields(after)


def _without_admission(plane: ControlPlane, namespace: str, pod: Raw) -> Raw:
    """The pod with the API server's own defaults, as it is where nobody has opted in."""
    alone = copy.deepcopy(pod)
    alone["metadata"]["annotations"] = alone["metadata"]["annotations"] | {ANNOTATION_EXCLUDE: "true"}
    return tried(plane, namespace, alone)


def _kept(pod: Raw) -> Raw:
    keys = ("name", "labels", "annotations", "ownerReferences")
    return {key: pod["metadata"][key] for key in keys if key in pod["metadata"]}


def _check_parsed(parser: SizesParser, pod: Raw, engine: Engine, row: Row, folder: Path) -> None:
    """vLLM's parser ends with the sizes, once the kubelet has put values and files in."""
    maps = {obj["metadata"]["name"]: obj["data"] for obj in objects_of(row.file) if obj["kind"] == "ConfigMap"}
    environment = {str(item["name"]): item.get("value") for item in engine.container.get("env") or ()}
    for source in engine.container.get("envFrom") or ():
        environment |= maps[source["configMapRef"]["name"]]
    tokens = list(engine.arguments.vector[engine.launch.start :])
    volumes = {one["name"]: one["configMap"]["name"] for one in pod["spec"].get("volumes") or () if "configMap" in one}
    for mount in engine.container.get("volumeMounts") or ():
        files = maps.get(volumes.get(mount["name"], ""), {})
        for name, text in files.items():
            (folder / name).write_text(text)
            tokens = [token.replace(f"{mount['mountPath']}/{name}", str(folder / name)) for token in tokens]
    parsed = parser.parse(tokens, environment)
    wanted = float(row.form.flags[0].partition("=")[2])
    assert (parsed.gpu_memory_utilization, parsed.kv_cache_memory_bytes) == (wanted, KV_BYTES)
    if row.file == "config-file":
        author = [token for token in tokens if token not in row.form.flags]
        assert parser.parse(author, environment).gpu_memory_utilization == 0.9, "the file was not read"


@pytest.mark.parametrize("path", sorted((EXAMPLES / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_policy_is_taken_as_it_is_written(crds: ControlPlane, path: Path) -> None:
    [raw] = documents(path)
    made = crds.client.create(f"/apis/{API_VERSION}/vllmpolicies", raw, dryRun="All", fieldValidation="Strict")
    assert crds.client.warnings == []
    for field, value in raw["spec"].items():
        assert made["spec"][field] == value or made["spec"][field].items() >= value.items(), field
