"""Every manifest of deploy/examples comes out right, by the code of `admit` and by that of `rewrite`."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from webhook_cases import FLAGS, KV_BYTES, UTILIZATION, environment, patched, review, vector

from bench.pods import pods_of
from recommender.api.fingerprints import fingerprint
from recommender.api.object_store import FileObjectStore
from recommender.api.policies import VLLMPolicy
from recommender.api.recommendations import (
    Measured,
    Range,
    RecommendationSpec,
    RecommendationStatus,
    Target,
    TargetRef,
    VLLMRecommendation,
)
from recommender.api.workloads import workload_of
from recommender.policy_contradictions import contradictions
from vllm_plugin.names import (
    ANNOTATION_SKIPPED,
    ENV_ALLOCATION_BYTES,
    ENV_GPU_MEMORY_UTILIZATION,
    ENV_KV_BYTES,
    ENV_PORT,
    LABEL_INJECTED,
)
from vllm_rightsizer.rewriting import rewrite_manifest
from webhook.offline import admit_json

Raw = dict[str, Any]

EXAMPLES = Path(__file__).parents[3] / "deploy" / "examples"
NAMESPACE = "chat"
ALLOCATION = 20 << 30
GPU = 24 << 30
ARGUMENTS, VARIABLES, UNPINNED, UNTOUCHED = "arguments", "variables", "bytes alone", "untouched"
SIZES: Mapping[str, Mapping[str, str]] = {
    ARGUMENTS: {},
    VARIABLES: {ENV_KV_BYTES: str(KV_BYTES), ENV_GPU_MEMORY_UTILIZATION: UTILIZATION},
    UNPINNED: {ENV_KV_BYTES: str(KV_BYTES), ENV_ALLOCATION_BYTES: str(ALLOCATION)},
    UNTOUCHED: {},
}
"""The variables of ours that a container of each form has afterwards."""

API_SERVER = ["python3", "-m", "vllm.entrypoints.openai.api_server"]

Row = tuple[str, str, str, str, list[str]]
"""File, kind and place of the pod's template, container, form, and what the vector begins with."""

TABLE: list[Row] = [
    ("configmap-arguments", "Deployment", "vllm", ARGUMENTS, [*API_SERVER, "--model=$(MODEL_PATH)"]),
    ("kserve", "InferenceService/llama-3-8b", "kserve-container", ARGUMENTS, [*API_SERVER, "--port=8080"]),
    ("kserve", "InferenceService/qwen-7b", "kserve-container", ARGUMENTS, ["--model_name=qwen-7b"]),
    ("kuberay", "RayService/head", "ray-head", UNTOUCHED, ["/bin/bash", "-c", "--"]),
    ("kuberay", "RayService/worker", "ray-worker", VARIABLES, ["/bin/bash", "-c", "--"]),
    ("leaderworkerset", "LeaderWorkerSet/leader", "vllm-leader", VARIABLES, ["sh", "-c"]),
    ("leaderworkerset", "LeaderWorkerSet/worker", "vllm-worker", VARIABLES, ["sh", "-c"]),
    ("llama-3-70b-tp4", "Deployment", "vllm", ARGUMENTS, ["vllm", "serve", "meta-llama/Meta-Llama-3-70B-Instruct"]),
    ("llama-3-8b", "Deployment", "vllm", ARGUMENTS, ["--model=meta-llama/Meta-Llama-3-8B-Instruct"]),
    ("triton", "Deployment", "triton", UNPINNED, ["tritonserver"]),
    ("two-engines", "Deployment", "chat", ARGUMENTS, ["--model=meta-llama/Meta-Llama-3-8B-Instruct"]),
    ("two-engines", "Deployment", "code", ARGUMENTS, ["--model=Qwen/Qwen2.5-Coder-7B-Instruct"]),
    ("two-engines", "Deployment", "router", UNTOUCHED, []),
]
PODLESS = ("autoscaling-hpa", "autoscaling-keda", "prices")
"""Examples without a pod."""


@cache
def _read(path: Path) -> tuple[Raw, ...]:
    return tuple(found for found in YAML(typ="safe", pure=True).load_all(path.read_text()) if found)


def _documents(path: Path) -> list[Raw]:
    return copy.deepcopy(list(_read(path)))


def _pods(file: str) -> Iterator[tuple[str, Raw]]:
    """The example's pods as the API server would show them to the webhook, each with its name in `TABLE`."""
    documents = _documents(EXAMPLES / f"{file}.yaml")
    for obj in documents:
        kind, name = obj["kind"], obj["metadata"]["name"]
        # A runtime makes no pod by itself; its neighbours are handed over for those who refer to it.
        others = [other for other in documents if other["kind"] == "ServingRuntime"]
        for found in pods_of([obj, *(other for other in others if other is not obj)]):
            if not found.place.startswith(kind) or kind == "ServingRuntime":
                continue
            metadata = found.pod["metadata"]
            labels = metadata.setdefault("labels", {})
            if kind == "Deployment":
                labels["pod-template-hash"] = "5d4f8c7b9"
                place, owner = kind, ("apps/v1", "ReplicaSet", f"{name}-5d4f8c7b9")
            elif kind == "InferenceService":
                labels |= {"serving.kserve.io/inferenceservice": name, "pod-template-hash": "5d4f8c7b9"}
                place, owner = f"{kind}/{name}", ("apps/v1", "ReplicaSet", f"{name}-predictor-5d4f8c7b9")
            elif kind == "LeaderWorkerSet":
                role = labels["role"]
                labels["leaderworkerset.sigs.k8s.io/name"] = name
                metadata.setdefault("annotations", {})["leaderworkerset.sigs.k8s.io/size"] = "2"
                place, owner = f"{kind}/{role}", ("apps/v1", "StatefulSet", name if role == "leader" else f"{name}-0")
            else:
                role = "head" if "headGroupSpec" in found.place else "worker"
                place, owner = f"{kind}/{role}", ("ray.io/v1", "RayCluster", f"{name}-x7k2p")
            version, owner_kind, owner_name = owner
            metadata["ownerReferences"] = [
                {"apiVersion": version, "kind": owner_kind, "name": owner_name, "uid": "u", "controller": True}
            ]
            yield place, found.pod


def _recommendation(pod: Raw, container: str) -> Raw:
    """What a recommender would have written for this container, after it ran on GPUs of one size."""
    workload = workload_of(pod)
    counts = {
        name: 0 for name, field in Measured.model_fields.items() if field.is_required() and field.annotation is int
    }
    made = VLLMRecommendation(
        metadata={"name": f"{workload.name}-{container}", "namespace": NAMESPACE},
        spec=RecommendationSpec(
            target_ref=TargetRef(group=workload.group, kind=workload.kind, name=workload.name, container=container)
        ),
        status=RecommendationStatus(
            fingerprint=fingerprint(pod, container),
            gpu_memory_total_bytes=Range(min=GPU, max=GPU),
            measured=Measured(vllm_version="0.11.0", model="m", **counts),
            target=Target(
                kv_bytes=KV_BYTES,
                kv_blocks=1,
                allocation_bytes=ALLOCATION,
                gpu_memory_utilization=UTILIZATION,
                flags=FLAGS,
                bound_by="hitRate",
            ),
        ),
    )
    return made.to_json()


def _containers(pod: Raw) -> dict[str, Raw]:
    return {container["name"]: container for container in pod["spec"]["containers"]}


def test_the_table_names_every_container_of_every_example() -> None:
    found = {
        (path.stem, place, container)
        for path in EXAMPLES.glob("*.yaml")
        if path.stem not in PODLESS
        for place, pod in _pods(path.stem)
        for container in _containers(pod)
    }
    assert found == {row[:3] for row in TABLE}


@pytest.mark.parametrize("file", sorted({row[0] for row in TABLE}))
def test_a_pod_of_the_example_starts_with_its_recommendation(file: str, tmp_path: Path) -> None:
    """By the annotations that stand in the example, on the template or on the workload."""
    store = FileObjectStore(tmp_path)
    for obj in _documents(EXAMPLES / f"{file}.yaml"):
        store.apply(obj)
    pods = list(_pods(file))
    for place, before in pods:
        for container in _containers(before):
            if (file, place, container, UNTOUCHED) not in {row[:4] for row in TABLE}:
                store.apply(_recommendation(before, container))
    for place, before in pods:
        answer = json.loads(admit_json(json.dumps(review(before, namespace=NAMESPACE)).encode(), tmp_path))
        after = patched(before, answer)
        for name, container in _containers(after).items():
            [(form, beginning)] = [row[3:] for row in TABLE if row[:3] == (file, place, name)]
            _check(_containers(before)[name], container, form, beginning)
        assert "warnings" not in answer["response"]
        assert ANNOTATION_SKIPPED not in (after["metadata"].get("annotations") or {})
        again = json.loads(admit_json(json.dumps(review(after, namespace=NAMESPACE)).encode(), tmp_path))
        assert "patch" not in again["response"]


def _check(before: Raw, after: Raw, form: str, beginning: list[str]) -> None:
    assert vector(after) == [*vector(before), *(FLAGS if form == ARGUMENTS else ())]
    assert vector(after)[: len(beginning)] == beginning
    ours = {ENV_KV_BYTES, ENV_GPU_MEMORY_UTILIZATION, ENV_ALLOCATION_BYTES}
    assert {name: value for name, value in environment(after).items() if name in ours} == SIZES[form]
    if form == UNTOUCHED:
        assert after == before
    else:
        assert "PYTHONPATH" in environment(after)


def test_two_engines_are_measured_on_two_ports() -> None:
    [(_, before)] = _pods("two-engines")
    after = patched(before, json.loads(admit_json(json.dumps(review(before)).encode(), None)))
    containers = _containers(after)
    assert after["metadata"]["labels"][LABEL_INJECTED] == "true"
    assert [environment(containers[name]).get(ENV_PORT) for name in ("chat", "code", "router")] == [
        "9415",
        "9416",
        None,
    ]


@pytest.mark.parametrize("file", sorted({row[0] for row in TABLE} - {"kserve"}))
def test_rewrite_shows_the_same(file: str) -> None:
    """Of templates that stand in the file: KServe makes its pods of two objects, KubeRay puts its command in itself."""
    manifest = rewrite_manifest((EXAMPLES / f"{file}.yaml").read_text(), file, KV_BYTES, UTILIZATION)
    rows = [row for row in TABLE if row[0] == file]
    by_arguments = sum(row[3] == ARGUMENTS for row in rows)
    by_variables = sum(row[3] in (VARIABLES, UNPINNED) for row in rows)
    diff = manifest.diff(file)
    assert diff.count(f"- {FLAGS[1]}\n") == by_arguments
    assert diff.count(f"name: {ENV_KV_BYTES}\n") == by_variables


def test_the_autoscaler_scales_an_example() -> None:
    """What KEDA asks for is of the Deployment and container of llama-3-8b.yaml."""
    [scaled], [deployment] = _documents(EXAMPLES / "autoscaling-keda.yaml"), _documents(EXAMPLES / "llama-3-8b.yaml")
    name = deployment["metadata"]["name"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == name
    assert scaled["metadata"]["namespace"] == deployment["metadata"]["namespace"]
    for trigger in scaled["spec"]["triggers"]:
        for label in (f'workload="{name}"', f'container="{container["name"]}"', 'kind="Deployment"'):
            assert label in trigger["metadata"]["query"]


@pytest.mark.parametrize("path", sorted((EXAMPLES / "policies").glob("*.yaml")), ids=lambda path: path.stem)
def test_policies(path: Path) -> None:
    """Each is valid, named as its file, and free of settings that contradict themselves."""
    [raw] = _documents(path)
    policy = VLLMPolicy.from_json(raw)
    assert policy.metadata.name == path.stem
    assert contradictions(policy.spec) == ()
    assert policy.spec.mode == ("DryRun" if path.stem in ("observe-only", "preliminary") else "Apply")


def test_a_policy_that_an_example_names_is_an_example() -> None:
    named = {
        found
        for path in EXAMPLES.glob("*.yaml")
        for obj in _documents(path)
        if (found := (obj.get("metadata", {}).get("annotations") or {}).get("vllm-rightsizer.io/policy"))
    }
    assert named == {"cautious"}
    assert all((EXAMPLES / "policies" / f"{name}.yaml").is_file() for name in named)
